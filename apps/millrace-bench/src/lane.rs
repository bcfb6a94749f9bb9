//! What a worker does with one poll: receive, run the program, send what it wants sent.

use arrayvec::ArrayVec;
use millrace_driver::queue::{BATCH, RxBatch, RxQueue, TxMeta, TxQueue};
use millrace_ebpf::{Instance, Verdict, XdpAction, XdpBuff};

/// A queue pair with a program in front, stepped by hand.
pub struct Lane {
    rx: RxQueue,
    tx: TxQueue,
    batch: Box<RxBatch>,
    program: Option<Instance>,
    verdicts: [Verdict; BATCH],
    extents: [(usize, usize); BATCH],
    pub tally: Tally,
}

/// What became of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub received: u64,
    pub sent: u64,
    /// Wanted out, but the ring had no room.
    pub tx_full: u64,
    pub passed: u64,
    pub dropped: u64,
    pub aborted: u64,
}

impl Lane {
    /// Without a program every frame goes back out as it came.
    pub fn new(rx: RxQueue, tx: TxQueue, program: Option<Instance>) -> Lane {
        Lane {
            rx,
            tx,
            batch: Box::new(RxBatch::new()),
            program,
            verdicts: [Verdict::default(); BATCH],
            extents: [(0, 0); BATCH],
            tally: Tally::default(),
        }
    }

    /// One poll and what follows from it; gives how many frames there were.
    #[inline(never)]
    pub fn round(&mut self) -> usize {
        let n = self.rx.poll(&mut self.batch).min(BATCH);
        if n == 0 {
            return 0;
        }
        self.tally.received += n as u64;
        let mut out = ArrayVec::<u8, BATCH>::new();
        match &mut self.program {
            None => out.extend(0..n as u8),
            Some(instance) => {
                let mut buffs = ArrayVec::<XdpBuff<'_>, BATCH>::new();
                for view in self.batch.split_frames_mut().take(BATCH) {
                    buffs.push(XdpBuff::new(view.buffer, view.off, view.len, 0, view.raw));
                }
                instance.run_batch(&mut buffs, &mut self.verdicts);
                for (extent, buff) in self.extents.iter_mut().zip(&buffs) {
                    *extent = (buff.data_offset(), buff.len());
                }
                drop(buffs);
                for i in 0..n {
                    match self.verdicts[i].action() {
                        XdpAction::Tx => {
                            let (off, len) = self.extents[i];
                            self.batch.set_data(i, off, len);
                            out.push(i as u8);
                        }
                        XdpAction::Pass => self.tally.passed += 1,
                        XdpAction::Drop => self.tally.dropped += 1,
                        XdpAction::Aborted | XdpAction::Redirect => self.tally.aborted += 1,
                    }
                }
            }
        }
        let mut sent = self.tx.push_frames(&mut self.batch, &out, &TxMeta::NONE);
        if sent < out.len() {
            self.tx.submit();
            self.tx.reclaim();
            sent += self.tx.push_frames(&mut self.batch, &out[sent..], &TxMeta::NONE);
        }
        self.tx.submit();
        self.tally.sent += sent as u64;
        self.tally.tx_full += (out.len() - sent) as u64;
        n
    }

    /// The last fault of the program, told for a person.
    pub fn fault(&self) -> Option<String> {
        self.program.as_ref()?.last_fault().map(|fault| fault.to_string())
    }

    /// The queues, to be given back to their port.
    pub fn into_queues(self) -> (RxQueue, TxQueue) {
        (self.rx, self.tx)
    }
}
