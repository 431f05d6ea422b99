//! What a filter answers to one call, found by running its program as the kernel would.
//!
//! Lets an audit tell a refusal of the filter from one of the kernel behind it, and tests compare a program with what
//! its profile says.

use crate::seccomp::Instruction;

/// A filter's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call runs.
    Allow,
    /// The call waits for the listener, which refuses it.
    Stop,
    /// The process dies.
    Kill,
    /// The call fails with this errno.
    Errno(u32),
}

/// Runs `program` for a call of `arch` (`AUDIT_ARCH_*`). `None`: it does what no program of this crate does.
pub fn evaluate(program: &[Instruction], arch: u32, number: u32, arguments: [u64; 6]) -> Option<Verdict> {
    // `struct seccomp_data`, in words: number, architecture, instruction pointer, arguments.
    let mut data = vec![number, arch, 0, 0];
    data.extend(arguments.iter().flat_map(|argument| [(argument & 0xFFFF_FFFF) as u32, (argument >> 32) as u32]));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        let mut jump = |condition| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = *data.get(usize::try_from(k).ok()? / 4)?,
            0x54 => accumulator &= k,
            0x05 => at = at.checked_add(usize::try_from(k).ok()?)?,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => {
                return Some(match k & 0xFFFF_0000 {
                    0x7FFF_0000 => Verdict::Allow,
                    0x7FC0_0000 => Verdict::Stop,
                    0x8000_0000 => Verdict::Kill,
                    0x0005_0000 => Verdict::Errno(k & 0xFFFF),
                    _ => return None,
                });
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn jumps_and_returns_are_those_of_the_kernel() {
        let program = [
            instruction(0x20, 0, 0, 0),
            instruction(0x15, 0, 1, 39),
            instruction(0x06, 0, 0, 0x7FFF_0000),
            instruction(0x06, 0, 0, 0x0005_0026),
        ];
        assert_eq!(evaluate(&program, 0, 39, [0; 6]), Some(Verdict::Allow));
        assert_eq!(evaluate(&program, 0, 40, [0; 6]), Some(Verdict::Errno(38)));
    }

    #[test]
    fn a_program_that_runs_past_its_end_has_no_answer() {
        assert_eq!(evaluate(&[instruction(0x05, 0, 0, u32::MAX)], 0, 0, [0; 6]), None);
        assert_eq!(evaluate(&[instruction(0x99, 0, 0, 0)], 0, 0, [0; 6]), None);
    }
}
