//! The whole chain behind a poll: a program on every frame, verdicts sorted, a TX queue chosen for each frame that goes out,
//! and the frames of each queue sent together.

use super::rig::{FRAME, Stage, Watch};
use crate::BenchError;
use arrayvec::ArrayVec;
use millrace_driver::harness::{Harness, good, recall};
use millrace_driver::queue::{BATCH, RxBatch, RxQueue, TxMeta, TxQueue};
use millrace_driver::steering::TxSteering;
use millrace_ebpf::{EngineKind, Instance, Loader, Object, Verdict, XdpAction, XdpBuff};
use millrace_nic_models::ixgbe::desc::rx::WriteBack;
use millrace_nic_models::packet::build::Frame;
use std::hint::black_box;
use std::net::Ipv4Addr;

/// `bpf/chain.bpf.c`: swaps addresses and sends the frame back.
const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chain.bpf.o"));
const PROGRAM: &str = "chain";
/// TX queues to choose from.
pub const TX_QUEUES: u16 = 2;

/// Everything between a poll and the doorbells.
pub struct Chain {
    program: Instance,
    /// Whether it may move the frames' edges.
    moves: bool,
    verdicts: [Verdict; BATCH],
    /// Where the program has left each frame, if it may move them: offset and length.
    extents: [(usize, usize); BATCH],
    steering: TxSteering,
    /// Frames for each queue, by number.
    out: [ArrayVec<u8, BATCH>; TX_QUEUES as usize],
    /// The second queue pair, of which only the sending half is used.
    nic: Harness,
    tx: TxQueue,
    rx: RxQueue,
    /// Frames that were not sent: the program wanted something else, or a ring was full.
    pub lost: u64,
}

impl Chain {
    /// With a second queue pair of the same port.
    pub fn new((nic, rx, tx): (Harness, RxQueue, TxQueue)) -> Result<Chain, BenchError> {
        let program = program()?;
        let moves = program.program().moves_edges();
        let mut steering = TxSteering::new(TX_QUEUES).map_err(BenchError::balancer)?;
        // As XPS would be set up for a worker that may use both queues: flows are spread by the hash that the NIC gave.
        let queues: Vec<u16> = (0..TX_QUEUES).collect();
        steering.set_rxq(0, &queues).map_err(BenchError::balancer)?;
        Ok(Chain {
            program,
            moves,
            verdicts: [Verdict::default(); BATCH],
            extents: [(0, 0); BATCH],
            steering,
            out: Default::default(),
            nic,
            tx,
            rx,
            lost: 0,
        })
    }

    /// What the second queue has sent, as the NIC takes it.
    pub fn transmit_all(&mut self) -> u32 {
        self.nic.tx.transmit_all()
    }

    /// What the driver keeps for itself of the second queue: see [`recall`].
    pub fn recall(&self) {
        black_box(recall(&self.rx, &self.tx, &RxBatch::new()));
    }

    /// Deals with `n` frames that a poll has brought.
    #[inline(always)]
    pub fn deal(&mut self, batch: &mut RxBatch, n: usize, first: &mut TxQueue, watch: &mut impl Watch) {
        watch.stage(Stage::Program, || self.run(batch));
        watch.stage(Stage::Sort, || self.sort(batch, n));
        watch.stage(Stage::Push, || {
            let queues = [first, &mut self.tx];
            for (tx, out) in queues.into_iter().zip(&self.out) {
                if !out.is_empty() {
                    let sent = tx.push_frames(batch, out, &TxMeta::NONE);
                    self.lost += (out.len() - sent) as u64;
                }
            }
        });
    }

    /// Both doorbells.
    #[inline(always)]
    pub fn submit(&mut self, first: &mut TxQueue, watch: &mut impl Watch) {
        watch.stage(Stage::Submit, || {
            first.submit();
            self.tx.submit();
        });
    }

    /// The program over the batch.
    #[inline(always)]
    fn run(&mut self, batch: &mut RxBatch) {
        // Extended, each is written where it stays; collected, all the room for 64 would be copied.
        let mut buffs = ArrayVec::<XdpBuff<'_>, BATCH>::new();
        let views = batch.split_frames_mut().take(BATCH);
        buffs.extend(views.map(|view| XdpBuff::new(view.buffer, view.off, view.len, 0, view.raw)));
        self.program.run_batch(&mut buffs, &mut self.verdicts);
        if self.moves {
            for (extent, buff) in self.extents.iter_mut().zip(&buffs) {
                *extent = (buff.data_offset(), buff.len());
            }
        }
    }

    /// Where each frame goes.
    #[inline(always)]
    fn sort(&mut self, batch: &mut RxBatch, n: usize) {
        let out = &mut self.out;
        out.iter_mut().for_each(ArrayVec::clear);
        if self.moves {
            batch.set_all_data(self.extents[..n].iter().copied());
        }
        let mut going = 0;
        let frames = self.verdicts[..n].iter().zip(batch.raws16()).zip(0..);
        let to_send = frames
            .filter(|((verdict, _), _)| verdict.action() == XdpAction::Tx)
            .map(|((_, raw), i)| (i, (raw[0] >> 32) as u32));
        let hash = |(_, hash): &(u8, u32)| *hash;
        self.steering.spread(Some(0), 0, to_send, hash, |queue, (i, _)| {
            // A batch has no more frames than a list has room.
            if out
                .get_mut(usize::from(queue))
                .is_some_and(|out| out.try_push(i).is_ok())
            {
                going += 1;
            }
        });
        self.lost += n as u64 - going;
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // The played NIC lets go of its buffers, so that the queues can give them back.
        self.nic.close();
    }
}

/// The program on the engine that an application has unless it says otherwise.
pub fn program() -> Result<Instance, BenchError> {
    let loaded = Loader::new().cpus(1).load(&Object::parse(OBJECT)?)?;
    Ok(loaded
        .program(Some(PROGRAM))?
        .instance(EngineKind::default(), 0)?)
}

/// The NIC receives frames of many flows, whose hashes choose their TX queues; gives how many there was room for.
pub fn receive_flows(nic: &mut Harness, frames: u32) -> Result<u32, BenchError> {
    let flow = |i: u32| WriteBack {
        hash: i.wrapping_mul(0x9e37_79b9),
        rss_type: 1,
        ..good(FRAME)
    };
    nic.rx
        .receive(frames, flow)
        .map_err(|error| BenchError::WrongOutcome {
            case: "chain",
            outcome: error.to_string(),
        })
}

/// A frame of `len` bytes for the program to look at.
pub fn frame(len: u16) -> Vec<u8> {
    Frame::new()
        .macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(198, 19, 0, 1))
        .udp(49184, 7)
        .pad_to(usize::from(len))
        .build()
}
