//! What a plugin may have that was granted a service: a directory, connections, queries, metrics.

use std::fs::{self, File};
use std::hint;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::thread;

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Services;
use serde_json::{Value, json};

use super::Attack;
use super::control::{CALL, ROOT, framed, question, send};
use super::kernel::{Target, address, attempt, outcome};

const HERE: usize = libc::AT_FDCWD as isize as usize;

/// What is written at once.
static BLOCK: [u8; 64 << 10] = [1; 64 << 10];

pub(super) const ATTACKS: &[Attack] = &[
    // --- a directory of its own, which is the working directory --------------------------------------------------------
    Attack::new("a5_state_symlink", |target| {
        let secret = target.path("secret");
        attempt(libc::SYS_symlinkat, &[address(&secret), HERE, address(c"link")])
    }),
    Attack::new("a5_state_hard_link", |target| {
        let secret = target.path("secret");
        attempt(libc::SYS_linkat, &[HERE, address(&secret), HERE, address(c"link"), 0])
    }),
    Attack::new("a5_state_read_elsewhere", |target| kept_out(fs::read(target.file("secret")))),
    Attack::new("a5_state_write_elsewhere", |target| kept_out(fs::write(target.file("photondb-was-here"), "x"))),
    Attack::new("a5_state_above", |_| kept_out(fs::read_dir(".."))),
    Attack::new("a5_state_of_another", |_| kept_out(fs::create_dir("../../a5_state_above/state/was-here"))),
    Attack::new("a5_state_swapped_directory", |target| {
        // A directory is looked at, and is another one when it is used.
        let swapped = fs::create_dir_all("place/inner").and_then(|()| fs::rename("place", "old"));
        kept_out(swapped.and_then(|()| fs::rename(target.file(""), "place")))
    }),
    Attack::new("a5_state_device", |_| {
        attempt(libc::SYS_mknodat, &[HERE, address(c"fifo"), libc::S_IFIFO as usize, 0])
    }),
    Attack::new("a5_state_program", |_| {
        let written =
            fs::write("program", "#!/bin/true\n").map(|()| attempt(libc::SYS_execve, &[address(c"program"), 0, 0]));
        written.unwrap_or_else(|error| format!("refused: {error}"))
    }),
    Attack::new("a7_state_rename_out", |target| {
        kept_out(fs::write("file", "x").and_then(|()| fs::rename("file", target.file("moved"))))
    }),
    Attack::new("a7_state_rename_in", |target| kept_out(fs::rename(target.file("secret"), "mine"))),
    Attack::new("a8_state_truncate", |target| kept_out(File::create(target.file("secret")))),
    Attack::new("a8_state_delete", |target| kept_out(fs::remove_file(target.file("secret")))),
    Attack::new("a14_state_bytes", |_| {
        (0_u32..).try_for_each(|number| fs::write(number.to_string(), BLOCK)).map_or_else(stuck, |()| String::new())
    }),
    Attack::new("a14_state_one_file", |_| {
        let written = File::create("file").and_then(|mut file| (0..1 << 20).try_for_each(|_| file.write_all(&BLOCK)));
        outcome(written)
    }),
    Attack::new("a14_state_reserve", |_| {
        let file = File::create("file").map(|file| attempt(libc::SYS_fallocate, &[descriptor(&file), 0, 0, 1 << 40]));
        file.unwrap_or_else(|error| format!("refused: {error}"))
    }),
    Attack::new("a15_state_files", |_| {
        (0_u32..)
            .try_for_each(|number| File::create(number.to_string()).map(drop))
            .map_or_else(stuck, |()| String::new())
    }),
    Attack::new("a15_state_directories", |_| {
        (0_u32..).try_for_each(|number| fs::create_dir(number.to_string())).map_or_else(stuck, |()| String::new())
    }),
    Attack::new("a15_state_depth", |_| {
        let mut path = PathBuf::from(".");
        let deeper = (0..200).try_for_each(|_| {
            path.push("d");
            fs::create_dir(&path)
        });
        deeper.map_or_else(stuck, |()| stuck(io::ErrorKind::Other.into()))
    }),
    Attack::new("a16_state_deleted_and_open", |_| {
        let mut kept = Vec::new();
        let hoarded = (0_u32..).try_for_each(|_| {
            let mut file = File::create("file")?;
            file.write_all(&BLOCK)?;
            kept.push(file);
            fs::remove_file("file")
        });
        let error = hoarded.expect_err("no number is the last");
        hint::black_box(&kept);
        stuck(error)
    }),
    // --- connections: granted is 127.0.0.1:9 and localhost:9 ------------------------------------------------------------
    Attack::new("d9_another_host", |target| dial(target, "127.0.0.2", 9)),
    Attack::new("d9_another_port", |target| dial(target, "127.0.0.1", target.port)),
    Attack::new("d9_another_name", |target| dial(target, "photondb.example", 9)),
    Attack::new("d9_too_many", |target| {
        let tries = (0..100).map(|_| dial(target, "127.0.0.1", 9));
        tries.into_iter().find(|answer| answer.contains("a second")).unwrap_or_else(|| "it worked".into())
    }),
    Attack::new("d10_private_address", |target| dial(target, "localhost", 9)),
    Attack::new("d10_cloud_metadata", |target| dial(target, "169.254.169.254", 80)),
    Attack::new("d10_odd_spellings", |target| {
        let hosts = ["127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1.", "[::1]", "::", "127.0.0.1\0.example", ""];
        let through = hosts.into_iter().find(|host| !dial(target, host, 9).contains("was refused"));
        through.map_or_else(|| "all refused".into(), |host| format!("it worked: {host:?}"))
    }),
    // --- queries: granted is to read test.others ------------------------------------------------------------------------
    Attack::new("i11_recursion", |target| {
        // Each level is this attack again, so the turn tells how deep it is.
        let arguments = [json!(0), json!(""), json!(0), json!(target.turn + 1)];
        query(target, &json!([64, [function("i11_recursion"), arguments[0], arguments[1], arguments[2], arguments[3]]]))
    }),
    Attack::new("i12_query_without_a_call", |target| {
        let services = target.services.clone();
        let asked = thread::spawn(move || run(&services, &json!(1)));
        asked.join().unwrap_or_else(|_| "refused: it panicked".into())
    }),
    Attack::new("i12_query_of_a_finished_call", |target| {
        // A thread that outlives the call, and asks when the next one is answered.
        static LATER: Mutex<Option<mpsc::Sender<mpsc::Sender<String>>>> = Mutex::new(None);
        let mut later = LATER.lock().unwrap_or_else(|error| error.into_inner());
        let Some(ask) = later.take() else {
            let (sender, receiver) = mpsc::channel::<mpsc::Sender<String>>();
            let services = target.services.clone();
            *later = Some(sender);
            thread::spawn(move || receiver.iter().for_each(|answer| drop(answer.send(run(&services, &json!(1))))));
            return "waits".into();
        };
        let (sender, receiver) = mpsc::channel();
        let _ = ask.send(sender);
        receiver.recv().unwrap_or_else(|error| format!("refused: {error}"))
    }),
    Attack::new("i13_another_table", |target| query(target, &json!([15, [[14, ["test"]], "secret"]]))),
    Attack::new("i13_write", |target| {
        query(target, &json!([56, [[15, [[14, ["test"]], "others"]], {"id": "attacker"}]]))
    }),
    Attack::new("i13_server", |target| query(target, &json!([60, [[14, ["test"]], "made_by_an_attacker"]]))),
    Attack::new("i13_endless", |target| {
        let all = json!([173, [1_u64 << 40]]);
        query(target, &json!([43, [[39, [all, [69, [[2, [1]], false]]]]]]))
    }),
    Attack::new("i13_huge_result", |target| query(target, &json!([51, [[173, [2_000_000]], "array"]]))),
    Attack::new("i13_huge_term", |target| query(target, &json!("x".repeat(8 << 20)))),
    Attack::new("i13_deep_term", |target| {
        // As deep as the own stack allows.
        query(target, &(0..1500).fold(json!(1), |term, _| json!([24, [term, 1]])))
    }),
    Attack::new("i13_no_term", |target| query(target, &json!([9999, ["x"]]))),
    // --- metrics --------------------------------------------------------------------------------------------------------
    Attack::new("g11_services", |target| {
        let Some(metrics) = target.services.metrics.clone() else { return "nothing was granted".into() };
        let asked: Result<Vec<_>, _> = (0..200).map(|_| metrics.snapshot()).collect();
        asked.map_or_else(|error| format!("refused: {}", error.message()), |_| "asked".into())
    }),
    Attack::new("g11_service_calls", |_| {
        // Past the runtime, and at once: it would wait for answers in between.
        let calls: Vec<u8> = (1000..1100).flat_map(|number| question(CALL, number)).collect();
        outcome(send(&calls))
    }),
    Attack::new("g11_service_huge_call", |_| outcome(send(&framed(&[ROOT, CALL, 0].repeat(20_000))))),
];

/// What a call with a path says: that it is not allowed, or, where the machine gives the plugin a root directory of its
/// own, that it is not there.
fn kept_out<T>(result: io::Result<T>) -> String {
    use io::ErrorKind::{CrossesDevices, NotFound, PermissionDenied};
    match result {
        Err(error) if matches!(error.kind(), CrossesDevices | NotFound | PermissionDenied) => "kept out".into(),
        other => outcome(other),
    }
}

/// Waits to be ended: a disk that is full, or a limit, may come first.
fn stuck(error: io::Error) -> String {
    hint::black_box(error);
    loop {
        thread::park();
    }
}

fn descriptor(file: &File) -> usize {
    std::os::fd::AsRawFd::as_raw_fd(file) as usize
}

fn dial(target: &Target, host: &str, port: u16) -> String {
    let Some(connect) = &target.services.connect else { return "nothing was granted".into() };
    match connect.dial(host, port) {
        Ok(_) => "it worked".into(),
        Err(error) => format!("refused: {}", error.message()),
    }
}

fn function(name: &str) -> Value {
    json!([11, [format!("plugin.{name}")]])
}

fn query(target: &Target, term: &Value) -> String {
    run(&target.services, term)
}

fn run(services: &Services, term: &Value) -> String {
    let Some(query) = &services.query else { return "nothing was granted".into() };
    match query.run(term) {
        // What it is a level further in.
        Ok(Datum::String(answer)) => answer.to_string(),
        Ok(_) => "it worked".into(),
        Err(error) => format!("refused: {}", error.message()),
    }
}
