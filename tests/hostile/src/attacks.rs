//! One attack each. What an attack gives back is what the caller sees if nobody stops it.

use std::io::{Error, Write};
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::time::Duration;
use std::{fs, hint, process, ptr, thread};

use photondb_plugin_sdk::prelude::*;

/// The control socket and the shared regions, as the host numbers them.
const CONTROL: RawFd = 3;
const SERVER_REGION: RawFd = 5;
const PLUGIN_REGION: RawFd = 6;
/// Bytes at the start of a region that have the words which somebody waits for.
const WAITED_FOR: usize = 16 << 10;

/// Makes the attack; `args` are those of the call.
type Run = fn(&Batch<'_>) -> String;

const ATTACKS: [(&str, Run); 28] = [
    ("open_file", |_| outcome(fs::File::open("/etc/passwd"))),
    ("write_file", |_| outcome(fs::write("/tmp/photondb-was-here", "x"))),
    ("open_socket", |_| outcome(TcpStream::connect("127.0.0.1:1"))),
    ("fork", |_| {
        // SAFETY: takes nothing; where it is not stopped, the child goes on as a copy of this thread.
        returned(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })
    }),
    ("exec", |_| {
        let arguments = [c"true".as_ptr(), ptr::null()];
        // SAFETY: a C string and an array of C strings that ends in null.
        returned(i64::from(unsafe { libc::execve(c"/bin/true".as_ptr(), arguments.as_ptr(), ptr::null()) }))
    }),
    // SAFETY: signal 0 does nothing to a process.
    ("kill", |_| returned(i64::from(unsafe { libc::kill(1, 0) }))),
    // SAFETY: PTRACE_ATTACH takes no pointers.
    ("ptrace", |_| returned(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_ATTACH, 1, 0, 0) })),
    // SAFETY: a C string.
    ("memfd_create", |_| returned(unsafe { libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0) })),
    ("write_server_region", write_server_region),
    ("unprotect_server_region", unprotect_server_region),
    ("map_server_region", |_| map(SERVER_REGION, libc::PROT_READ | libc::PROT_WRITE).1),
    ("send_to_server_region", |_| {
        // SAFETY: one byte of a string that lives for ever.
        returned(unsafe { libc::write(SERVER_REGION, c"x".as_ptr().cast(), 1) } as i64)
    }),
    ("make_code", |_| {
        let size = 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, anywhere.
        let base = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        // SAFETY: the page that was just mapped, and that nothing else uses.
        returned(i64::from(unsafe { libc::mprotect(base, size, libc::PROT_READ | libc::PROT_EXEC) }))
    }),
    ("scribble", scribble),
    ("spin_for_ever", |_| {
        loop {
            hint::spin_loop();
        }
    }),
    ("sleep_for_ever", |_| {
        loop {
            thread::park();
        }
    }),
    // No attack: slow, and honest.
    ("doze", |_| {
        thread::sleep(Duration::from_millis(250));
        "rested".into()
    }),
    ("panic", |_| panic!("the author did not think of this")),
    ("exit", |_| process::exit(3)),
    ("abort", |_| process::abort()),
    ("last_words", |_| {
        (0..100).for_each(|line| eprintln!("{line} {}", "x".repeat(500)));
        eprintln!("the very last words");
        process::abort()
    }),
    ("overflow_stack", |_| overflow(1).to_string()),
    ("allocate", |_| {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        loop {
            // Written, so that it counts.
            kept.push(vec![1; 16 << 20]);
            hint::black_box(&kept);
        }
    }),
    ("spawn_threads", |_| {
        let mut threads = 0;
        while threads < 10_000 && thread::Builder::new().stack_size(64 << 10).spawn(thread::park).is_ok() {
            threads += 1;
        }
        format!("{threads} threads")
    }),
    ("flood_stdout", |_| {
        let mut stdout = std::io::stdout();
        for line in 0..50_000 {
            // An error: nobody reads any more.
            let _ = writeln!(stdout, "\x1b[2Jline {line}");
        }
        "flooded".into()
    }),
    ("hang_up", |_| {
        // SAFETY: the runtime still has the number, and gets errors from now on.
        returned(i64::from(unsafe { libc::close(CONTROL) }))
    }),
    ("beg", beg),
    ("huge_reply", |_| "x".repeat(4 << 20)),
];

/// Answers that are no answers.
pub(crate) struct BadResults(pub(crate) &'static str);

impl BadResults {
    pub(crate) fn named(name: &str) -> Option<Self> {
        ["not_a_number", "no_results", "too_many_results"].into_iter().find(|known| *known == name).map(Self)
    }
}

impl QueryFunctionPlugin for BadResults {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile(self.0, 1, 1)
    }

    fn invoke(&self, _: &[Datum]) -> Result<Datum, PluginError> {
        Err(PluginError::argument("the server calls invoke_batch"))
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        match self.0 {
            "not_a_number" => results.numbers()?.fill(f64::NAN),
            "no_results" => {}
            _ => (0..=batch.rows()).try_for_each(|_| results.push(&Datum::Null))?,
        }
        Ok(())
    }
}

/// The function that makes an attack.
pub(crate) struct Attack {
    name: &'static str,
    run: Run,
}

impl Attack {
    pub(crate) fn named(name: &str) -> Option<Self> {
        ATTACKS.iter().find(|(known, _)| *known == name).map(|&(name, run)| Self { name, run })
    }
}

impl QueryFunctionPlugin for Attack {
    fn signature(&self) -> FunctionSignature {
        FunctionSignature::volatile(self.name, 1, 1)
    }

    fn invoke(&self, _: &[Datum]) -> Result<Datum, PluginError> {
        Err(PluginError::argument("the server calls invoke_batch"))
    }

    fn invoke_batch(&self, batch: &Batch<'_>, results: &mut RowsWriter<'_>) -> Result<(), PluginError> {
        let outcome = (self.run)(batch);
        results.push(&Datum::from(outcome))
    }
}

fn outcome<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "it worked".into(),
        Err(error) => format!("refused: {error}"),
    }
}

fn returned(result: i64) -> String {
    outcome(if result < 0 { Err(Error::last_os_error()) } else { Ok(()) })
}

/// Stores into the arguments of its own call, which lie in the region that the server writes.
fn write_server_region(batch: &Batch<'_>) -> String {
    let Some(numbers) = batch.numbers(0) else { return "the argument must be a number".into() };
    let number = numbers.as_ptr().cast_mut();
    // SAFETY: none: the memory is borrowed, and mapped read-only, so that the store ends this process.
    unsafe { number.write_volatile(666.0) };
    "it worked".into()
}

/// Tries to make the region writable that the server writes.
fn unprotect_server_region(batch: &Batch<'_>) -> String {
    let Some(numbers) = batch.numbers(0) else { return "the argument must be a number".into() };
    let page = (numbers.as_ptr() as usize & !4095) as *mut libc::c_void;
    // SAFETY: a page that is mapped; more rights do not hurt who reads it.
    let result = unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE) };
    returned(i64::from(result))
}

/// Maps all of a region.
fn map(region: RawFd, protection: i32) -> (*mut u8, String, usize) {
    // SAFETY: an open descriptor.
    let size = unsafe { libc::lseek(region, 0, libc::SEEK_END) };
    let size = usize::try_from(size).unwrap_or(0);
    // SAFETY: a new mapping, anywhere.
    let base = unsafe { libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, region, 0) };
    let failed = base == libc::MAP_FAILED;
    (base.cast(), returned(if failed { -1 } else { 0 }), if failed { 0 } else { size })
}

/// Overwrites all of its own region, rings and indices and answers, with numbers that could be right in part, and wakes
/// whoever waits for them.
fn scribble(_: &Batch<'_>) -> String {
    let (base, how, size) = map(PLUGIN_REGION, libc::PROT_READ | libc::PROT_WRITE);
    let words: *mut u64 = base.cast();
    for number in 0..1000 {
        for word in 0..size / size_of::<u64>() {
            let at = words.wrapping_add(word);
            // SAFETY: `map` mapped `size` bytes from `base`. Others read and write them meanwhile: that is the attack.
            unsafe { at.write_volatile(number) };
        }
        for word in 0..WAITED_FOR / size_of::<u64>() {
            let at = words.wrapping_add(word);
            // SAFETY: the kernel wakes whoever waits at that address, and looks at nothing else.
            unsafe { libc::syscall(libc::SYS_futex, at, libc::FUTEX_WAKE, i32::MAX) };
        }
    }
    how
}

/// Asks the server for its bootstrap interface, of which it has none, again and again, and never says that it may forget
/// the question.
fn beg(_: &Batch<'_>) -> String {
    for question in 0..10_000 {
        // One segment of five words: the root's pointer, `bootstrap`, the pointer to it, its question, a null pointer.
        let structure = 0x0001_0001_0000_0000_u64;
        let message = [5 << 32, structure, 8, structure, question, 0];
        let bytes = size_of_val(&message);
        loop {
            // SAFETY: the words live until the call returns.
            let sent = unsafe { libc::write(CONTROL, message.as_ptr().cast(), bytes) };
            match sent < 0 && Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
                true => thread::yield_now(),
                false => break,
            }
        }
    }
    "asked".into()
}

fn overflow(depth: u64) -> u64 {
    let frame = hint::black_box([depth; 512]);
    if frame[0] == u64::MAX { 0 } else { hint::black_box(overflow(depth + 1)) + frame[1] }
}
