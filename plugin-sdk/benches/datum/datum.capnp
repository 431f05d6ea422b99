@0xb3f1a6c07d5e4921;
# A datum in Cap'n Proto, for the comparison in ../encoding.rs alone.

struct Datum {
  union {
    null @0 :Void;
    bool @1 :Bool;
    number @2 :Float64;
    string @3 :Text;
    binary @4 :Data;
    time @5 :Time;
    array @6 :List(Datum);
    float32s @7 :List(Float32);
    float64s @8 :List(Float64);
    object @9 :List(Field);
  }
}

struct Field {
  # In the byte order of names.
  name @0 :Text;
  value @1 :Datum;
}

struct Time {
  epochSeconds @0 :Float64;
  offsetMinutes @1 :Int16;
}
