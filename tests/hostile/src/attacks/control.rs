//! I: the control socket, written to past the runtime: Cap'n Proto that no honest plugin sends.

use std::io::{Error, ErrorKind};
use std::thread;
use std::time::Duration;

use super::kernel::{call, outcome};
use super::{Attack, CONTROL, PASSING};

/// Numbers of the union of `Message` in Cap'n Proto's `rpc.capnp`.
const ABORT: u64 = 1;
pub(super) const CALL: u64 = 2;
const RETURN: u64 = 3;
pub(super) const FINISH: u64 = 4;
const RESOLVE: u64 = 5;
const RELEASE: u64 = 6;
const BOOTSTRAP: u64 = 8;
const PROVIDE: u64 = 10;
const DISEMBARGO: u64 = 13;

/// A pointer to a structure that follows at once: so many words of data, so many pointers.
const fn structure(data: u64, pointers: u64) -> u64 {
    data << 32 | pointers << 48
}

/// The root of every message: a union of which only the number and one pointer matter.
pub(super) const ROOT: u64 = structure(1, 1);
/// A pointer to itself, as a structure with one pointer: as deep as one likes.
const LOOP: u64 = 0xffff_fffc | structure(0, 1);

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("i1_most_segments", |_| sent(&u32::MAX.to_le_bytes())),
    Attack::new("i1_many_segments", |_| {
        let mut table = 511_u32.to_le_bytes().to_vec();
        (0..513).for_each(|_| table.extend(0x0100_0000_u32.to_le_bytes()));
        sent(&table)
    }),
    Attack::new("i1_huge_segment", |_| sent(&table(&[0x1fff_ffff]))),
    Attack::new("i1_segments_overflow", |_| sent(&table(&[u32::MAX; 8]))),
    Attack::new("i1_no_words", |_| sent(&table(&[0]))),
    Attack::new("i1_megabyte", |_| sent(&framed(&vec![0; (1 << 17) + 1]))),
    Attack::new("i2_half_frame", |_| {
        let _ = send(&table(&[1000]));
        sent(&[0; 100])
    }),
    Attack::new("i2_half_header", |_| sent(&[0; 3])),
    Attack::new("i2_byte_by_byte", |_| {
        let frame = table(&[1 << 16]);
        for byte in frame.iter().chain(&[0; 4096]) {
            if send(&[*byte]).is_err() {
                break;
            }
        }
        "it worked".into()
    }),
    Attack::new("i3_root_is_a_loop", |_| sent(&framed(&[LOOP]))),
    Attack::new("i3_return_is_a_loop", |_| sent(&framed(&returned(LOOP)))),
    Attack::new("i3_far_pointer_loop", |_| sent(&framed(&[2]))),
    Attack::new("i3_far_pointer_nowhere", |_| sent(&framed(&[0xffff_ffff_ffff_fffa]))),
    Attack::new("i3_double_far_pointer", |_| sent(&framed(&[6, 2, 2]))),
    Attack::new("i3_out_of_bounds", |_| sent(&framed(&[0x7fff_fffc | structure(0xffff, 0xffff)]))),
    Attack::new("i4_empty_structures", |_| sent(&framed(&[1 | 0xffff_fff8 << 32, 0]))),
    Attack::new("i4_everybody_points_there", |_| {
        let mut words = returned(1 | 6 << 32 | 4096 << 35);
        // A list of pointers, all to the same list.
        words.extend((0..4096_u64).map(|at| ((4096 - at) << 2 | 1) | 5 << 32 | 100 << 35));
        words.extend([0; 100]);
        sent(&framed(&words))
    }),
    Attack::new("i6_list_of_another_size", |_| sent(&framed(&returned(1 | 7 << 32 | 8 << 35)))),
    Attack::new("i6_capability_nowhere", |_| sent(&framed(&returned(3 | 0xffff_ffff << 32)))),
    Attack::new("i9_unknown_message", |_| sent(&message(9999))),
    Attack::new("i9_call", |_| sent(&message(CALL))),
    Attack::new("i9_bootstrap", |_| {
        (0..10_000).for_each(|number| drop(send(&question(BOOTSTRAP, number))));
        "it worked".into()
    }),
    Attack::new("i9_finish", |_| sent(&message(FINISH))),
    Attack::new("i9_release", |_| sent(&message(RELEASE))),
    Attack::new("i9_resolve", |_| sent(&message(RESOLVE))),
    Attack::new("i9_provide", |_| sent(&message(PROVIDE))),
    Attack::new("i9_disembargo", |_| sent(&message(DISEMBARGO))),
    Attack::new("i9_abort", |_| sent(&message(ABORT))),
    Attack::new("i9_answer_to_no_question", |_| sent(&question(RETURN, 0xffff_0000))),
    Attack::new("i9_answers_to_all_questions", |_| {
        (0..10_000).for_each(|number| drop(send(&question(RETURN, number))));
        "it worked".into()
    }),
    Attack::new("i9_noise", |_| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..1000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if send(&state.to_le_bytes()).is_err() {
                break;
            }
        }
        "it worked".into()
    }),
    Attack::new("i10_descriptors", |_| outcome(send_descriptors(CONTROL))),
    Attack::new("i10_descriptors_passing", |_| outcome(send_descriptors(PASSING))),
    Attack::new("i10_empty_packets", |_| {
        (0..10_000).for_each(|_| drop(call(libc::SYS_write, &[PASSING as usize, 0, 0])));
        "sent".into()
    }),
    Attack::new("i10_forged_listener", |_| {
        let packet = b"seccomp listener";
        let _ = call(libc::SYS_write, &[PASSING as usize, packet.as_ptr() as usize, packet.len()]);
        "sent".into()
    }),
    Attack::new("i10_hang_up", |_| outcome(call(libc::SYS_close, &[CONTROL as usize]))),
    Attack::new("i10_hang_up_passing", |_| {
        let _ = call(libc::SYS_close, &[PASSING as usize]);
        "hung up".into()
    }),
    Attack::at_start("j1_silence", || {
        loop {
            thread::park();
        }
    }),
    Attack::at_start("j1_hang_up", || {
        let _ = call(libc::SYS_close, &[CONTROL as usize]);
        forever()
    }),
    Attack::at_start("i1_start_most_segments", || early(&u32::MAX.to_le_bytes())),
    Attack::at_start("i2_start_half_frame", || early(&table(&[1000]))),
    Attack::at_start("i3_start_loop", || early(&[framed(&answer(0, LOOP)), framed(&answer(1, LOOP))].concat())),
    Attack::at_start("i4_start_amplify", || {
        let many = 1 | 0xffff_fff8 << 32;
        early(&[framed(&answer(0, many)), framed(&answer(1, many))].concat())
    }),
    Attack::at_start("i9_start_call", || early(&message(CALL))),
    Attack::at_start("i9_start_answers", || early(&[question(RETURN, 0), question(RETURN, 1)].concat())),
    Attack::at_start("i9_start_abort", || early(&message(ABORT))),
    Attack::at_start("i9_start_noise", || early(&[0xa5; 4096])),
];

/// Writes all of it; tries again while the socket is full. An error: nobody reads any more.
pub(super) fn send(bytes: &[u8]) -> std::io::Result<()> {
    let mut left = bytes;
    while !left.is_empty() {
        match call(libc::SYS_write, &[CONTROL as usize, left.as_ptr() as usize, left.len()]) {
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an attack on the control connection says of itself: that it could send is no success yet.
fn sent(bytes: &[u8]) -> String {
    let _ = send(bytes);
    // The server reads it in its own time, and ends this process then.
    thread::sleep(Duration::from_secs(10));
    "it worked".into()
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

/// At the start, in place of the runtime: waits for the first questions, and answers with this.
fn early(bytes: &[u8]) -> ! {
    let mut questions = [0_u8; 4096];
    let read = [CONTROL as usize, questions.as_mut_ptr() as usize, questions.len()];
    while call(libc::SYS_read, &read).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
        thread::yield_now();
    }
    let _ = send(bytes);
    forever()
}

/// The table of segments, of so many words each.
fn table(words: &[u32]) -> Vec<u8> {
    let mut table = (words.len() as u32).wrapping_sub(1).to_le_bytes().to_vec();
    words.iter().for_each(|words| table.extend(words.to_le_bytes()));
    table.resize(table.len().next_multiple_of(8), 0);
    table
}

/// One segment with its table.
pub(super) fn framed(words: &[u64]) -> Vec<u8> {
    let mut frame = table(&[words.len() as u32]);
    words.iter().for_each(|word| frame.extend(word.to_le_bytes()));
    frame
}

/// A message of this kind without contents.
fn message(kind: u64) -> Vec<u8> {
    framed(&[ROOT, kind, 0])
}

/// A message of this kind about a question.
pub(super) fn question(kind: u64, number: u64) -> Vec<u8> {
    framed(&[ROOT, kind, structure(1, 1), number, 0])
}

/// An answer to the question with this as its content.
fn answer(number: u64, content: u64) -> Vec<u64> {
    vec![ROOT, RETURN, structure(2, 1), number, 0, structure(0, 2), content, 0]
}

fn returned(content: u64) -> Vec<u64> {
    answer(0, content)
}

/// Sends a descriptor: its own output.
pub(super) fn send_descriptors(socket: i32) -> std::io::Result<()> {
    let data = [0_u8; 1];
    let part = [data.as_ptr() as usize, 1];
    // `struct cmsghdr` for one descriptor: length 20, SOL_SOCKET, SCM_RIGHTS, descriptor 1.
    let control: [u64; 3] = [20, 1 | 1 << 32, 1];
    // `struct msghdr`: no name, one part, the control message.
    let header = [0, 0, part.as_ptr() as usize, 1, control.as_ptr() as usize, 24, 0];
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as usize;
    match call(libc::SYS_sendmsg, &[socket as usize, header.as_ptr() as usize, flags]) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::from_raw_os_error(error.raw_os_error().unwrap_or(0))),
    }
}
