@0xb6a1f3c7d95e2a41;

# The control plane between the server and one plugin process: rare calls only. Whatever happens for each query, batch
# or row goes through the lanes (src/lane.rs).
#
# The plugin exports `Plugin` on the inherited socket, and exits when that socket is closed. A method that can fail answers with a `Failure`: `none` is success.

interface Plugin {
  handshake @0 (protocol :UInt16, settings :Data) -> (info :PluginInfo, failure :Failure);
  # First call, and only once; deadline 5 s. `protocol` is the server's; the plugin answers with its own and the server
  # compares. `settings`: the table [plugins.settings.NAME] as an encoded datum, an object; a failure says what is wrong
  # with it. The lanes are served from then on.

  ping @1 () -> ();
  # Answered by the control thread: tells a stopped process from a busy one.

  validateIndex @2 (options :IndexOptions) -> (failure :Failure);
  # Checks the options of an index that is about to be created.

  openIndex @3 (index :UInt32, options :IndexOptions, column :ColumnShape) -> (failure :Failure);
  # Makes the index number `index`, without rows. The number is the server's, and never used twice by one process.

  attachSegment @4 (index :UInt32, segment :UInt32) -> (failure :Failure);
  # The next segment file of the index's column. Its descriptor, read-only, was sent on the descriptor socket just
  # before; the plugin maps it and closes it.

  closeIndex @5 (index :UInt32) -> ();
  # Frees everything of the index.

  indexStatistics @6 (index :UInt32) -> (rows :UInt64, removed :UInt64, memoryBytes :UInt64);
}

struct PluginInfo {
  name @0 :Text;
  version @1 :Text;
  protocol @2 :UInt16;
  functions @3 :List(Function);
  # The position in the list is the function's number on a lane.
  vectorIndexes @4 :List(Text);
}

struct Function {
  name @0 :Text;
  minArgs @1 :UInt16;
  maxArgs @2 :UInt16;
  # 65535: any number.
  pure @3 :Bool;
}

struct Failure {
  union {
    none @0 :Void;
    error :group {
      cause @1 :UInt8;
      # `Cause` of the SDK.
      message @2 :Text;
    }
  }
}

enum Metric {
  cosine @0;
  l2 @1;
  dot @2;
}

enum Element {
  f32 @0;
  f16 @1;
}

struct IndexOptions {
  kind @0 :Text;
  dims @1 :UInt32;
  metric @2 :Metric;
  settings @3 :Data;
  # The further keys of `vector={...}`, as an encoded datum (an object).
}

struct ColumnShape {
  element @0 :Element;
  rowsPerSegment @1 :UInt32;
}
