@0xb6a1f3c7d95e2a41;

# The control plane between the server and one plugin process: rare calls only. Whatever happens for each query, batch
# or row goes through the lanes (src/lane.rs).
#
# The plugin exports `Plugin` on the inherited socket, and exits when that socket is closed. A method that can fail
# answers with a `Failure`: `none` is success.
#
# The server exports nothing but the services that the plugin was granted. A plugin calls those and nothing else, within
# the limits that src/control.rs sets; it never takes a call back (a Finish before the Return).

interface Plugin {
  handshake @0 (protocol :UInt16, settings :Data, services :Services, bell :UInt32) -> (info :PluginInfo, failure :Failure);
  # First call, and only once; deadline 5 s. `protocol` is the server's; the plugin answers with its own and the server
  # compares. `settings`: the table [plugins.settings.NAME] as an encoded datum, an object; a failure says what is wrong
  # with it. `bell`: the packet, sent before, of the write end of a pipe; workers write a byte into it when an answer is
  # there that a task of the server waits for (src/lane/task.rs). The lanes are served from then on.

  ping @1 () -> ();
  # Answered by the control thread: tells a stopped process from a busy one.

  validateIndex @2 (options :IndexOptions, distance :Distance) -> (failure :Failure);
  # Checks the options of an index that is about to be created. `distance`: whose places the vectors are to be; null where
  # the metric of the options is what is meant.

  openIndex @3 (index :UInt32, options :IndexOptions, column :ColumnShape) -> (failure :Failure, parallelInserts :Bool);
  # Makes the index number `index`, without rows. The number is the server's, and never used twice by one process.
  # `parallelInserts`: rows may be inserted by several calls at once, on different lanes.

  attachSegment @4 (index :UInt32, segment :UInt32, descriptor :UInt32) -> (failure :Failure);
  # The next segment file of the index's column. It was sent, read-only, on the descriptor socket as the packet of that
  # number; the plugin maps it and closes it.

  closeIndex @5 (index :UInt32) -> ();
  # Frees everything of the index.

  indexStatistics @6 (index :UInt32) -> (rows :UInt64, removed :UInt64, memoryBytes :UInt64);
}

struct Services {
  # What the plugin was granted. A service that it was not granted is null: there is nothing that could be called.
  query @0 :Query;
  connect @1 :Connect;
  metrics @2 :Metrics;
  stateDirectory @3 :Bool;
  # Whether the working directory is the plugin's own, to read and write files in.
}

interface Query {
  run @0 (lane :UInt16, call :UInt64, term :Data) -> (result :Data, failure :Failure);
  # Evaluates a ReQL term, JSON as on the wire of a driver, on behalf of the call `call` that is in flight on the lane
  # `lane`: within the granted scope, and within what is left of that call's time. `result` is an encoded datum.
}

interface Connect {
  dial @0 (host :Text, port :UInt16) -> (descriptor :UInt32, failure :Failure);
  # Connects by TCP to a listed host and port. The connected socket, in blocking mode, is the packet of the number
  # `descriptor` on the descriptor socket, sent before the answer.
}

interface Metrics {
  snapshot @0 () -> (text :Text);
  # The server's metrics as /metrics shows them.
}

struct PluginInfo {
  name @0 :Text;
  version @1 :Text;
  protocol @2 :UInt16;
  functions @3 :List(Function);
  # The position in the list is the function's number on a lane.
  vectorIndexes @4 :List(Text);
  storageEngines @5 :List(Text);
  # Engines are opened and called through the lanes alone: to open one may take longer than the control plane waits.
  distances @6 :List(Text);
  # The position in the list is the distance's number on a lane. Distances are called through the lanes alone.
}

struct Function {
  name @0 :Text;
  minArgs @1 :UInt16;
  maxArgs @2 :UInt16;
  # 65535: any number.
  pure @3 :Bool;
  aggregate @4 :Bool;
  # Takes the name of a step and an array: not for rows one by one, but for `reduce`.
  dataType @5 :Bool;
  # Makes values of a type of its name; also takes `sum` and an array, and the name of an operator and two operands.
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
  i8 @2;
}

struct IndexOptions {
  kind @0 :Text;
  dims @1 :UInt32;
  metric @2 :Metric;
  settings @3 :Data;
  # The further keys of `vector={...}`, as an encoded datum (an object).
}

struct Distance {
  name @0 :Text;
  traits @1 :Data;
  # `Traits` of the SDK, as an encoded datum.
}

struct ColumnShape {
  element @0 :Element;
  rowsPerSegment @1 :UInt32;
}
