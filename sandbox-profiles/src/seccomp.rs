//! From the policy of each call to one BPF program.
//!
//! seccompiler translates the conditions on arguments ([`seccompiler::SeccompRule`]). What it cannot say, we say around
//! them: an answer of its own for each call (its filters have two in all), user notification, and the order. The
//! program is
//!
//! 1. the architecture: another one dies (`int 0x80` would reach other calls under the same numbers);
//! 2. a binary search over ranges of call numbers: at most nine comparisons, where a list would need one a call. The
//!    kernel runs the program for every number at installation, so this makes starting a plugin cheaper too;
//! 3. for calls with conditions, the alternatives one after the other.
//!
//! Numbers from 2^30 on (x32) die, numbers above those we know get ENOSYS, all others that no entry names get EPERM.
//!
//! # Two secrets of the host
//! The program is in force before the host becomes the plugin, so it must let two calls of the host through that no
//! plugin may make: `execveat` of the executable and `sendmsg` of the listener. A descriptor number is no protection:
//! an absolute path makes `execveat` ignore the descriptor, and a filter cannot read the path. But both calls take
//! fewer than six arguments, and a filter sees all six registers. So the host puts a random 64-bit token into the sixth;
//! the kernel ignores it there, the filter demands it. The token is gone with the host's memory and registers when the
//! plugin begins, and the first wrong guess stops the process.
//!
//! The token and the process's own id are known to the host alone: the program has places for both ([`Program`]).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};
use serde::{Deserialize, Serialize};

use crate::confinement::fd;
use crate::error::ProfileError;
use crate::profile::{Alternative, Answer, ArgName, Condition, Value, Width};
use crate::resolve::CallPolicy;
use crate::syscalls::{self, Arch, OWN_PID, PLUGIN_REGION, SERVER_REGION};

/// The kernel's limit on instructions (BPF_MAXINSNS).
pub const MAX_INSTRUCTIONS: usize = 4096;

pub(crate) const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub(crate) const RET_ERRNO: u32 = 0x0005_0000;
pub(crate) const RET_USER_NOTIF: u32 = 0x7FC0_0000;
pub(crate) const RET_ALLOW: u32 = 0x7FFF_0000;
/// The lower half of a return value. The kernel ignores it for a notification, so it carries what to answer without a
/// listener: an errno, or 0 to kill.
pub(crate) const RET_DATA: u32 = 0x0000_FFFF;
/// In the data of [`RET_USER_NOTIF`]: the listener is only told, and answers what the other bits say, an errno or, for 0,
/// that the call is made.
pub(crate) const TELL: u32 = 0x0000_8000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const LD_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// x32 calls have this bit.
const X32_BIT: u32 = 0x4000_0000;
const AT_EMPTY_PATH: u64 = 0x1000;

/// Where the host's token goes. Halves that occur nowhere else, so that they can be found in compiled rules.
const TOKEN_HIGH: u32 = 0x7EE1_5AFE;
const TOKEN_LOW: u32 = 0x51DE_D00D;

/// A call that the host makes after the filter is in force, and that a plugin cannot.
pub(crate) struct HostCall {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    conditions: &'static [(u8, u64)],
}

/// See the module's documentation.
pub(crate) const HOST_CALLS: [HostCall; 2] = [
    HostCall {
        name: "execveat",
        why: "the host becomes the plugin; needs a secret that is gone when the plugin runs",
        conditions: &[(0, fd::EXECUTABLE as u64), (4, AT_EMPTY_PATH)],
    },
    HostCall {
        name: "sendmsg",
        why: "the host sends the server the listener for stopped calls; needs the same secret",
        conditions: &[(0, fd::PASSING as u64)],
    },
];

/// One BPF instruction, as `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl Instruction {
    fn new(code: u16, jt: u8, jf: u8, k: u32) -> Self {
        Self { code, jt, jf, k }
    }

    fn ret(value: u32) -> Self {
        Self::new(RET, 0, 0, value)
    }
}

/// A compiled program, with places for what only the host knows. The places hold values that match nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Encoded", try_from = "Encoded")]
pub struct Program {
    instructions: Vec<Instruction>,
    places: Places,
}

/// Which instructions compare with what the host fills in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    own_pid: Vec<usize>,
    token_high: Vec<usize>,
    token_low: Vec<usize>,
    server_region: Vec<usize>,
    plugin_region: Vec<usize>,
}

/// Whether descriptors 5 and 6 are a plugin's regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regions {
    /// They are, and rules that name them mean them.
    Inherited,
    /// They are whatever the process opens: rules that name a region mean no descriptor.
    Absent,
}

/// What to do with calls that are to be stopped and named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Notify it: the call waits, and the supervisor kills.
    Present,
    /// There is none: kill at once, or EPERM for calls that can be excused.
    Absent,
}

impl Program {
    /// The program to install: with the id of the calling process, as it sees itself, and a fresh random token.
    pub fn finish(&self, own_pid: u32, token: u64, regions: Regions, listener: Listener) -> Vec<Instruction> {
        let mut program = self.instructions.clone();
        let [high, low] = [(token >> 32) as u32, (token & 0xFFFF_FFFF) as u32];
        let places = &self.places;
        let mut fill = |places: &[usize], value| places.iter().for_each(|place| program[*place].k = value);
        fill(&places.own_pid, own_pid);
        fill(&places.token_high, high);
        fill(&places.token_low, low);
        if regions == Regions::Inherited {
            fill(&places.server_region, fd::SERVER_REGION.unsigned_abs());
            fill(&places.plugin_region, fd::PLUGIN_REGION.unsigned_abs());
        }
        if listener == Listener::Absent {
            for instruction in program.iter_mut().filter(|instruction| instruction.code == RET) {
                if instruction.k & !RET_DATA == RET_USER_NOTIF {
                    instruction.k = match instruction.k & RET_DATA {
                        0 => RET_KILL_PROCESS,
                        TELL => RET_ALLOW,
                        errno => RET_ERRNO | errno & !TELL,
                    };
                }
            }
        }
        program
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Never: even the emptiest policy checks the architecture.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }
}

/// How a program travels: sixteen hexadecimal digits an instruction, because a list of numbers would be the larger part
/// of the host's start.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    code: String,
    places: Places,
}

impl From<Program> for Encoded {
    fn from(program: Program) -> Self {
        let hex = |i: &Instruction| format!("{:04x}{:02x}{:02x}{:08x}", i.code, i.jt, i.jf, i.k);
        Self { code: program.instructions.iter().map(hex).collect(), places: program.places }
    }
}

impl TryFrom<Encoded> for Program {
    type Error = &'static str;

    fn try_from(encoded: Encoded) -> Result<Self, Self::Error> {
        let malformed = "a seccomp program is sixteen hexadecimal digits an instruction";
        let (chunks, rest) = encoded.code.as_bytes().as_chunks::<16>();
        if !rest.is_empty() || chunks.is_empty() || chunks.len() > MAX_INSTRUCTIONS {
            return Err(malformed);
        }
        let decode = |chunk: &[u8; 16]| {
            let text = std::str::from_utf8(chunk).ok()?;
            let value = u64::from_str_radix(text, 16).ok()?;
            let [a, b, jt, jf, k @ ..] = value.to_be_bytes();
            Some(Instruction::new(u16::from_be_bytes([a, b]), jt, jf, u32::from_be_bytes(k)))
        };
        let instructions: Vec<_> = chunks.iter().map(decode).collect::<Option<_>>().ok_or(malformed)?;
        let Places { own_pid, token_high, token_low, server_region, plugin_region } = &encoded.places;
        let places = [own_pid, token_high, token_low, server_region, plugin_region];
        if places.into_iter().flatten().any(|place| *place >= instructions.len()) {
            return Err("a seccomp program has a place outside itself");
        }
        Ok(Self { instructions, places: encoded.places })
    }
}

/// What a range of call numbers leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Return(u32),
    /// The conditions of a call, by index.
    Conditions(usize),
}

/// An instruction, or a jump whose distance is not known yet.
enum Slot {
    Plain(Instruction),
    Goto(usize),
}

/// Compiles the policy of every call for `arch`.
pub(crate) fn compile(
    profile: &str,
    arch: Arch,
    calls: &BTreeMap<String, CallPolicy>,
) -> Result<Program, ProfileError> {
    let mut bodies = Vec::new();
    let mut targets = BTreeMap::new();
    for (name, policy) in calls {
        if let Some(number) = arch.number(name) {
            let target = target(profile, arch, name, policy, &mut bodies)?;
            targets.insert(number, target);
        }
    }
    for call in &HOST_CALLS {
        let number = arch.number(call.name).ok_or_else(|| internal(profile, "a host call has no number"))?;
        match targets.get(&number) {
            // Let through whatever its arguments are: nothing to add.
            Some(Target::Return(RET_ALLOW)) => {}
            // The policy's own conditions end in the answer; ours come first.
            Some(Target::Conditions(index)) => {
                let mut body = host_conditions(profile, call)?;
                body.append(&mut bodies[*index]);
                bodies[*index] = body;
            }
            other => {
                let answer = match other {
                    Some(Target::Return(answer)) => *answer,
                    _ => answer(call.name, Answer::Eperm),
                };
                let mut body = host_conditions(profile, call)?;
                body.push(Instruction::ret(answer));
                targets.insert(number, Target::Conditions(bodies.len()));
                bodies.push(body);
            }
        }
    }
    assemble(profile, arch, &targets, &bodies)
}

/// What the call `name` leads to; its conditions, if it has any, are added to `bodies`.
fn target(
    profile: &str,
    arch: Arch,
    name: &str,
    policy: &CallPolicy,
    bodies: &mut Vec<Vec<Instruction>>,
) -> Result<Target, ProfileError> {
    let otherwise = answer(name, policy.otherwise);
    let otherwise = if policy.told { told(otherwise) } else { otherwise };
    // What a filter lets through, Landlock may refuse, by its path.
    let allowed = if policy.told && syscalls::path_argument(name).is_some() { told(RET_ALLOW) } else { RET_ALLOW };
    match &policy.allow {
        Some(_) if policy.arch.is_some_and(|only| only != arch) => Ok(Target::Return(otherwise)),
        None => Ok(Target::Return(otherwise)),
        Some(alternatives) if alternatives.is_empty() => Ok(Target::Return(allowed)),
        Some(alternatives) => {
            let bad =
                |message: String| ProfileError::BadRule { file: policy.file.clone(), call: name.to_owned(), message };
            let mut body = Vec::new();
            for alternative in alternatives {
                for conditions in expand(alternative).map_err(bad)? {
                    body.extend(rule(profile, conditions)?);
                }
            }
            for ret in body.iter_mut().filter(|instruction| instruction.code == RET) {
                ret.k = allowed;
            }
            body.push(Instruction::ret(otherwise));
            bodies.push(body);
            Ok(Target::Conditions(bodies.len() - 1))
        }
    }
}

/// Makes a call of this policy known to the listener, with what it is due.
fn told(ret: u32) -> u32 {
    match ret & !RET_DATA {
        RET_ALLOW => RET_USER_NOTIF | TELL,
        RET_ERRNO => RET_USER_NOTIF | TELL | ret & RET_DATA,
        _ => ret,
    }
}

/// The return value for an answer. Opening a file can be excused, so without a listener it is EPERM, not death: every
/// Rust program's runtime opens `/proc/self/maps` before `main`.
fn answer(call: &str, answer: Answer) -> u32 {
    match answer {
        Answer::Stop if matches!(call, "open" | "openat") => RET_USER_NOTIF | EPERM,
        Answer::Stop => RET_USER_NOTIF,
        Answer::Kill => RET_KILL_PROCESS,
        Answer::Eperm => RET_ERRNO | EPERM,
        Answer::Enosys => RET_ERRNO | ENOSYS,
    }
}

/// The conditions of an alternative, one list for each choice among `is` values.
fn expand(alternative: &Alternative) -> Result<Vec<Vec<SeccompCondition>>, String> {
    let mut lists: Vec<Vec<SeccompCondition>> = vec![Vec::new()];
    for (name, condition) in alternative {
        let argument = match name {
            ArgName::Arg0 => 0,
            ArgName::Arg1 => 1,
            ArgName::Arg2 => 2,
            ArgName::Arg3 => 3,
            ArgName::Arg4 => 4,
            ArgName::Arg5 => 5,
        };
        let (always, choices) = translate(argument, condition)?;
        for list in &mut lists {
            list.extend_from_slice(&always);
        }
        if !choices.is_empty() {
            let join = |list: &Vec<SeccompCondition>, choice: &SeccompCondition| {
                list.iter().chain([choice]).cloned().collect::<Vec<_>>()
            };
            lists = lists.iter().flat_map(|list| choices.iter().map(move |choice| join(list, choice))).collect();
        }
    }
    Ok(lists)
}

/// What must hold in any case, and the choices of which one must.
fn translate(argument: u8, condition: &Condition) -> Result<(Vec<SeccompCondition>, Vec<SeccompCondition>), String> {
    let (length, all) = match condition.width {
        Width::Int => (SeccompCmpArgLen::Dword, u64::from(u32::MAX)),
        Width::Long => (SeccompCmpArgLen::Qword, u64::MAX),
    };
    let compare = |operator, value| {
        SeccompCondition::new(argument, length.clone(), operator, value).map_err(|error| error.to_string())
    };
    let union = |values: &[Value]| values.iter().try_fold(0, |sum, value| Ok::<_, String>(sum | value.get()?));
    let mut always = Vec::new();
    for value in &condition.not {
        always.push(compare(SeccompCmpOp::Ne, value.get()?)?);
    }
    if !condition.within.is_empty() {
        always.push(compare(SeccompCmpOp::MaskedEq(all & !union(&condition.within)?), 0)?);
    }
    if !condition.has.is_empty() {
        let bits = union(&condition.has)?;
        always.push(compare(SeccompCmpOp::MaskedEq(bits), bits)?);
    }
    let ignored = union(&condition.ignoring)?;
    let mut choices = Vec::new();
    for value in &condition.is {
        let value = value.get()?;
        let operator = if ignored == 0 { SeccompCmpOp::Eq } else { SeccompCmpOp::MaskedEq(all & !ignored) };
        choices.push(compare(operator, value)?);
    }
    Ok((always, choices))
}

/// One alternative: conditions, then ALLOW. seccompiler's rules jump over the one instruction after them if they do
/// not hold.
fn rule(profile: &str, conditions: Vec<SeccompCondition>) -> Result<Vec<Instruction>, ProfileError> {
    let rule = SeccompRule::new(conditions).map_err(|error| internal(profile, &error.to_string()))?;
    let program: BpfProgram = rule.into();
    let convert = |filter: sock_filter| Instruction::new(filter.code, filter.jt, filter.jf, filter.k);
    let mut instructions: Vec<_> = program.into_iter().map(convert).collect();
    instructions.push(Instruction::ret(RET_ALLOW));
    Ok(instructions)
}

fn host_conditions(profile: &str, call: &HostCall) -> Result<Vec<Instruction>, ProfileError> {
    let condition = |argument, length, value| {
        SeccompCondition::new(argument, length, SeccompCmpOp::Eq, value)
            .map_err(|error| internal(profile, &error.to_string()))
    };
    let token = u64::from(TOKEN_HIGH) << 32 | u64::from(TOKEN_LOW);
    let mut conditions = vec![condition(5, SeccompCmpArgLen::Qword, token)?];
    for (argument, value) in call.conditions {
        conditions.push(condition(*argument, SeccompCmpArgLen::Dword, *value)?);
    }
    rule(profile, conditions)
}

/// Puts the parts together and finds the places for what the host fills in.
fn assemble(
    profile: &str,
    arch: Arch,
    targets: &BTreeMap<u32, Target>,
    bodies: &[Vec<Instruction>],
) -> Result<Program, ProfileError> {
    let mut search = Vec::new();
    emit_search(&ranges(arch, targets), &mut search);
    let mut instructions = vec![
        Instruction::new(LD_ABS, 0, 0, OFFSET_ARCH),
        Instruction::new(JEQ, 1, 0, arch.audit()),
        Instruction::ret(RET_KILL_PROCESS),
        Instruction::new(LD_ABS, 0, 0, OFFSET_NR),
    ];
    let mut start = instructions.len() + search.len();
    let mut starts = Vec::with_capacity(bodies.len());
    for body in bodies {
        starts.push(start);
        start += body.len();
    }
    for slot in search {
        let here = instructions.len();
        instructions.push(match slot {
            Slot::Plain(instruction) => instruction,
            Slot::Goto(body) => {
                let distance = u32::try_from(starts[body] - here - 1)
                    .map_err(|_| internal(profile, "a jump is longer than a program"))?;
                Instruction::new(JA, 0, 0, distance)
            }
        });
    }
    instructions.extend(bodies.iter().flatten().copied());
    // Never reached. Each rule of seccompiler holds an unused jump one past the answer behind it, and the kernel's
    // checker wants every jump, used or not, to land inside.
    instructions.push(Instruction::ret(RET_KILL_PROCESS));
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(ProfileError::ProgramTooLong { profile: profile.to_owned(), length: instructions.len() });
    }
    let places = |value: u32| {
        let is_place = |instruction: &Instruction| instruction.code == JEQ && instruction.k == value;
        instructions.iter().enumerate().filter(|(_, i)| is_place(i)).map(|(place, _)| place).collect::<Vec<_>>()
    };
    let named = |value: u64| u32::try_from(value).map(places).map_err(|_| internal(profile, "a place is no number"));
    let places = Places {
        own_pid: named(OWN_PID)?,
        token_high: places(TOKEN_HIGH),
        token_low: places(TOKEN_LOW),
        server_region: named(SERVER_REGION)?,
        plugin_region: named(PLUGIN_REGION)?,
    };
    if places.token_high.len() != places.token_low.len() || places.token_high.len() > HOST_CALLS.len() {
        return Err(internal(profile, "a rule compares with the host's token"));
    }
    Ok(Program { instructions, places })
}

/// The whole range of numbers, cut where the target changes; each entry holds from its number to the next one's.
fn ranges(arch: Arch, targets: &BTreeMap<u32, Target>) -> Vec<(u32, Target)> {
    let default = Target::Return(answer("", Answer::Eperm));
    let mut ranges = vec![(0, default)];
    let mut put = |from: u32, target: Target| match ranges.last_mut() {
        Some((last, old)) if *last == from => *old = target,
        Some((_, old)) if *old == target => {}
        _ => ranges.push((from, target)),
    };
    for (number, target) in targets {
        put(*number, *target);
        put(*number + 1, default);
    }
    put(arch.last_number() + 1, Target::Return(answer("", Answer::Enosys)));
    put(X32_BIT, Target::Return(RET_KILL_PROCESS));
    ranges
}

/// A binary search for the range of the number in the accumulator.
fn emit_search(ranges: &[(u32, Target)], slots: &mut Vec<Slot>) {
    if let [(_, target)] = ranges {
        slots.push(match target {
            Target::Return(value) => Slot::Plain(Instruction::ret(*value)),
            Target::Conditions(body) => Slot::Goto(*body),
        });
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let mut left_slots = Vec::new();
    emit_search(left, &mut left_slots);
    let first = right[0].0;
    match u8::try_from(left_slots.len()) {
        Ok(distance) => slots.push(Slot::Plain(Instruction::new(JGE, distance, 0, first))),
        Err(_) => {
            // Conditional jumps reach 255 instructions, unconditional ones any distance.
            let distance = u32::try_from(left_slots.len()).unwrap_or(u32::MAX);
            slots.push(Slot::Plain(Instruction::new(JGE, 0, 1, first)));
            slots.push(Slot::Plain(Instruction::new(JA, 0, 0, distance)));
        }
    }
    slots.append(&mut left_slots);
    emit_search(right, slots);
}

fn internal(profile: &str, message: &str) -> ProfileError {
    ProfileError::Internal { profile: profile.to_owned(), message: message.to_owned() }
}
