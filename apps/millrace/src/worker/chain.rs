//! The programs in front of one queue: one alone, or several in libxdp's order and with its rules.
//!
//! A chain does to each frame what libxdp's dispatcher does: the programs run in their order; after each, its chain-call
//! actions say whether the next one runs or the verdict stands; whoever gets past the last one is passed. There is no
//! limit of ten.

use millrace_driver::queue::BATCH;
use millrace_ebpf::{Fault, Frags, Instance, Redirect, RedirectKind, RunConfig, Verdict, XdpAction, XdpBuff};

/// This worker's own instances of what runs in front of one queue.
pub(crate) struct Attached {
    links: Vec<Link>,
    /// Whether any of them may move a frame's edges.
    moves: bool,
}

/// One program.
struct Link {
    instance: Instance,
    /// `None`: its verdict stands, whatever it is.
    config: Option<RunConfig>,
}

impl Attached {
    /// A program alone.
    pub(crate) fn single(instance: Instance) -> Attached {
        let config = None;
        Attached {
            moves: instance.program().moves_edges(),
            links: vec![Link { instance, config }],
        }
    }

    /// Programs in the order in which they run.
    pub(crate) fn chain(links: Vec<(Instance, RunConfig)>) -> Attached {
        let links = links.into_iter().map(|(instance, config)| Link {
            instance,
            config: Some(config),
        });
        let links: Vec<Link> = links.collect();
        Attached {
            moves: links.iter().any(|link| link.instance.program().moves_edges()),
            links,
        }
    }

    /// Whether a frame may begin or end elsewhere after they ran.
    pub(crate) fn moves_edges(&self) -> bool {
        self.moves
    }

    /// The last fault of any of them, told for a person.
    pub(crate) fn last_fault(&self) -> Option<String> {
        let mut faults = self.links.iter().filter_map(|link| link.instance.last_fault());
        faults.next().map(|fault| fault.to_string())
    }

    /// Says what about a frame of several buffers, `frags` being those behind the first.
    pub(crate) fn run_frags(&mut self, buff: &mut XdpBuff<'_>, frags: &mut Frags) -> Verdict {
        run_frags(&mut self.links, buff, frags)
    }

    /// Says what about each frame, as one program would.
    #[inline]
    pub(crate) fn run(&mut self, buffs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
        match self.links.as_mut_slice() {
            [
                Link {
                    instance,
                    config: None,
                },
            ] => instance.run_batch(buffs, verdicts),
            links => run_chain(links, buffs, verdicts),
        }
    }
}

/// One frame of several buffers, by the same rules.
fn run_frags(links: &mut [Link], buff: &mut XdpBuff<'_>, frags: &mut Frags) -> Verdict {
    let mut asked = Redirect::default();
    let mut verdict = Verdict::default();
    for link in links {
        verdict = link.instance.run_frags(buff, frags);
        if verdict.redirect.kind != RedirectKind::None {
            asked = verdict.redirect;
        } else {
            verdict.redirect = asked;
        }
        let on = link.config.is_some_and(|config| config.goes_on(verdict.raw));
        if !on || verdict.fault != Fault::None {
            return verdict;
        }
    }
    verdict.raw = XdpAction::Pass as u32;
    verdict
}

/// Bit i stands for frame i.
fn run_chain(links: &mut [Link], buffs: &mut [XdpBuff<'_>], verdicts: &mut [Verdict]) {
    let n = buffs.len().min(verdicts.len()).min(BATCH);
    let mut going = if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
    // The kernel keeps what bpf_redirect was asked for until the packet has gone, across programs.
    let mut asked = [Redirect::default(); BATCH];
    for link in links.iter_mut() {
        let mut left = going;
        while left != 0 {
            // Frames that go on side by side are one batch.
            let start = left.trailing_zeros() as usize;
            let len = (left >> start).trailing_ones() as usize;
            let run = start..start + len;
            link.instance
                .run_batch(&mut buffs[run.clone()], &mut verdicts[run.clone()]);
            for i in run {
                let verdict = &mut verdicts[i];
                if verdict.redirect.kind != RedirectKind::None {
                    asked[i] = verdict.redirect;
                } else {
                    verdict.redirect = asked[i];
                }
                let on = link.config.is_some_and(|config| config.goes_on(verdict.raw));
                if !on || verdict.fault != Fault::None {
                    going &= !(1 << i);
                }
            }
            left &= if start + len >= 64 {
                0
            } else {
                u64::MAX << (start + len)
            };
        }
    }
    for (i, verdict) in verdicts.iter_mut().enumerate().take(n) {
        if going >> i & 1 != 0 {
            verdict.raw = XdpAction::Pass as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_ebpf::{EngineKind, Program};
    use std::sync::Arc;

    /// Adds one to the frame's first byte, and says what the byte at `at` of the frame says.
    fn program(at: i16) -> Arc<Program> {
        let mut code = Vec::new();
        let mut insn = |code_byte: u8, regs: u8, off: i16, imm: i32| {
            code.extend([code_byte, regs]);
            code.extend(off.to_le_bytes());
            code.extend(imm.to_le_bytes());
        };
        insn(0x61, 0x12, 0, 0); // r2 = data
        insn(0x61, 0x13, 4, 0); // r3 = data_end
        insn(0xbf, 0x24, 0, 0); // r4 = r2
        insn(0x07, 0x04, 0, 32); // r4 += 32
        insn(0xb7, 0x00, 0, 0); // r0 = XDP_ABORTED
        insn(0x2d, 0x34, 4, 0); // if r4 > r3 exit
        insn(0x71, 0x25, 0, 0); // r5 = *(u8 *)r2
        insn(0x07, 0x05, 0, 1); // r5 += 1
        insn(0x73, 0x52, 0, 0); // *(u8 *)r2 = r5
        insn(0x71, 0x20, at, 0); // r0 = *(u8 *)(r2 + at)
        insn(0x95, 0, 0, 0);
        Program::from_bytecode("says", &code, &[], 1).expect("a program")
    }

    fn link(at: i16, config: RunConfig) -> (Instance, RunConfig) {
        let instance = program(at).instance(EngineKind::Interp, 0).expect("accepted");
        (instance, config)
    }

    /// What libxdp's dispatcher does to one frame, written as its C source has it.
    fn dispatcher(says: &[u32], actions: &[u32]) -> (u32, u8) {
        for (i, (ret, actions)) in says.iter().zip(actions).enumerate() {
            if u64::from(actions | 1 << 31) >> (ret & 63) & 1 == 0 {
                return (*ret, i as u8 + 1);
            }
        }
        (2, says.len() as u8)
    }

    #[test]
    fn a_chain_decides_as_libxdps_dispatcher_for_every_verdict_and_mask() {
        let masks = [1u32 << 2, 0, 1 << 1 | 1 << 2, 0x1f, 1 << 3, 1 << 2];
        for masks in masks.windows(3) {
            let config = |i: usize| RunConfig {
                priority: 50,
                actions: masks[i],
            };
            let links = (0..3).map(|i| link(16 + i as i16, config(i))).collect();
            let mut chain = Attached::chain(links);
            let all: Vec<[u32; 3]> = (0..216u32).map(|n| [n % 6, n / 6 % 6, n / 36]).collect();
            for says in all.chunks(BATCH) {
                let mut frames = vec![[0u8; 64]; says.len()];
                for (frame, says) in frames.iter_mut().zip(says) {
                    frame[16..19].copy_from_slice(&says.map(|s| s as u8));
                }
                let mut verdicts = vec![Verdict::default(); says.len()];
                let mut buffs: Vec<_> = frames
                    .iter_mut()
                    .map(|frame| XdpBuff::new(frame, 0, 64, 0, &[]))
                    .collect();
                chain.run(&mut buffs, &mut verdicts);
                drop(buffs);
                for ((says, verdict), frame) in says.iter().zip(&verdicts).zip(&frames) {
                    let wanted = dispatcher(says, masks);
                    assert_eq!((verdict.raw, frame[0]), wanted, "{says:?} with {masks:x?}");
                }
            }
        }
    }

    #[test]
    fn more_than_ten_programs_run_one_after_the_other() {
        let links = (0..25).map(|_| link(16, RunConfig::default())).collect();
        let mut chain = Attached::chain(links);
        let mut frame = [0u8; 64];
        frame[16] = XdpAction::Pass as u8;
        let mut verdicts = [Verdict::default()];
        chain.run(&mut [XdpBuff::new(&mut frame, 0, 64, 0, &[])], &mut verdicts);
        assert_eq!((frame[0], verdicts[0].action()), (25, XdpAction::Pass));
    }

    #[test]
    fn a_program_alone_has_the_last_word() {
        let instance = program(16).instance(EngineKind::Interp, 0).expect("accepted");
        let mut alone = Attached::single(instance);
        let mut frame = [1u8; 64];
        let mut verdicts = [Verdict::default()];
        alone.run(&mut [XdpBuff::new(&mut frame, 0, 64, 0, &[])], &mut verdicts);
        assert_eq!(verdicts[0].action(), XdpAction::Drop);
    }
}
