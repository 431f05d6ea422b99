@0xd3b07384d113edec;

# What the server's Cap'n Proto port (28016) offers to clients, as its bootstrap interface. Endpoints that plugins
# register will be handed out here as capabilities.

interface Endpoint {
  info @0 () -> (name :Text, version :Text);
  # The product's name and version.
}
