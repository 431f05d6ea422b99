@0xd4b6a9a3f6f0c8e1;

interface Echo {
  echo @0 (data :Data) -> (data :Data);
  # Gives back what it got.

  sum @1 (data :Data) -> (sum :Float32);
  # Adds up 32-bit floats.
}
