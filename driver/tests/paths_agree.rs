//! Scalar and AVX2 loops do the same: two harnesses are fed the same descriptors and asked the same things, and everything
//! that can be seen of both is compared.

#![cfg(feature = "models")]

use millrace_driver::harness::{Harness, HarnessConfig, good};
use millrace_driver::queue::{RxBatch, RxQueue, TxFlags, TxMeta, TxQueue};
use millrace_driver::simd::CpuPath;
use millrace_nic_models::ixgbe::desc::rx::{WriteBack, error, status};
use proptest::prelude::*;

const RING: u32 = 64;

/// What the NIC writes back.
#[derive(Clone, Debug)]
enum Written {
    Good {
        len: u16,
        hash: u32,
        vlan: u16,
        flags: u32,
    },
    Part {
        len: u16,
    },
    Damaged,
    /// Any bits at all, done or not.
    Any {
        low: u64,
        high: u64,
    },
}

/// One step of both.
#[derive(Clone, Debug)]
enum Step {
    Receive(Vec<Written>),
    Poll {
        limit: usize,
        prefetch: bool,
    },
    /// Frames by number, in this order, that numbers may repeat or be too high.
    Push {
        frames: Vec<u8>,
        tagged: bool,
    },
    Resize {
        frame: usize,
        off: usize,
        len: usize,
    },
    Take {
        frame: usize,
    },
    Submit,
    Transmit {
        most: u32,
    },
}

fn written() -> impl Strategy<Value = Written> {
    prop_oneof![
        12 => (1u16..=2048, any::<u32>(), any::<u16>(), any::<u32>()).prop_map(|(len, hash, vlan, flags)| Written::Good {
            len,
            hash,
            vlan,
            flags: flags & (status::VP | status::IPCS | status::L4CS | error::IPE | error::L4E),
        }),
        1 => (0u16..3000).prop_map(|len| Written::Part { len }),
        1 => Just(Written::Damaged),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(low, high)| Written::Any { low, high }),
    ]
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let upwards = (0u8..60, 0usize..64).prop_map(|(from, n)| (from..=u8::MAX).take(n).collect());
    // As a list of those frames that leave by one of several queues.
    let gaps = prop::collection::vec(prop::bool::weighted(0.6), 0..70).prop_map(|taken| {
        taken
            .iter()
            .enumerate()
            .filter(|(_, taken)| **taken)
            .map(|(i, _)| i as u8)
            .collect()
    });
    prop_oneof![
        4 => upwards,
        4 => gaps,
        2 => prop::collection::vec(0u8..64, 0..40),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(written(), 1..60).prop_map(Step::Receive),
        5 => (prop_oneof![Just(64usize), 1usize..64], any::<bool>())
            .prop_map(|(limit, prefetch)| Step::Poll { limit, prefetch }),
        5 => (frames(), prop::bool::weighted(0.1)).prop_map(|(frames, tagged)| Step::Push { frames, tagged }),
        1 => (0usize..64, 0usize..2500, 0usize..2500).prop_map(|(frame, off, len)| Step::Resize { frame, off, len }),
        // As short as may be, or up to the buffer's end.
        1 => (0usize..64, 0usize..2340, 15usize..19).prop_map(|(frame, off, len)| Step::Resize { frame, off, len }),
        1 => (0usize..64, 0usize..2340, 0usize..3)
            .prop_map(|(frame, off, by)| Step::Resize { frame, off, len: 2368 - off - by }),
        1 => (0usize..64).prop_map(|frame| Step::Take { frame }),
        3 => Just(Step::Submit),
        3 => (0u32..80).prop_map(|most| Step::Transmit { most }),
    ]
}

struct Side {
    nic: Harness,
    rx: RxQueue,
    tx: TxQueue,
    batch: RxBatch,
}

impl Side {
    fn new(path: CpuPath) -> Side {
        let config = HarnessConfig {
            rx_ring: RING,
            tx_ring: RING,
            buffers: 256,
            path,
            ..HarnessConfig::default()
        };
        let (nic, rx, tx) = Harness::new(&config).expect("a harness");
        Side {
            nic,
            rx,
            tx,
            batch: RxBatch::new(),
        }
    }

    /// Does a step and gives everything that can be seen of it, buffers' places excepted: the paths take free buffers in
    /// another order.
    fn step(&mut self, step: &Step) -> String {
        match step {
            Step::Receive(all) => {
                let mut done = 0;
                for one in all {
                    if self.nic.rx.posted() == 0 {
                        break;
                    }
                    self.nic.rx.write_back(bits(one)).expect("a posted buffer");
                    done += 1;
                }
                format!("received {done}")
            }
            Step::Poll { limit, prefetch } => {
                self.batch.set_limit(*limit);
                self.batch.set_prefetch(*prefetch);
                let n = self.rx.poll(&mut self.batch);
                let seen: Vec<_> = (0..n)
                    .map(|i| {
                        let chunks: Vec<_> = (0..self.batch.frame_buffers(i))
                            .map(|k| self.batch.chunk(i, k).len())
                            .collect();
                        (chunks, self.batch.data_range(i), self.batch.raw(i).to_vec())
                    })
                    .collect();
                format!("{n} {seen:?} {} {:?}", self.nic.rx.posted(), self.rx.stats())
            }
            Step::Push { frames, tagged } => {
                let meta = TxMeta {
                    flags: if *tagged {
                        TxFlags::VLAN
                    } else {
                        TxFlags::default()
                    },
                    vlan_tci: 5,
                    ..TxMeta::NONE
                };
                let n = self.tx.push_frames(&mut self.batch, frames, &meta);
                let held: Vec<_> = (0..64).map(|i| self.batch.holds(i)).collect();
                format!("{n} {held:?} {} {:?}", self.tx.space(), self.tx.stats())
            }
            Step::Resize { frame, off, len } => format!("{}", self.batch.set_data(*frame, *off, *len)),
            Step::Take { frame } => format!("{:?}", self.batch.take(*frame).map(|frame| frame.len())),
            Step::Submit => format!(
                "{} {} {:?}",
                self.tx.submit(),
                self.nic.tx.queued(),
                self.tx.stats()
            ),
            Step::Transmit { most } => {
                let mut sent = Vec::new();
                let n = self.nic.tx.transmit(*most, |one| {
                    let shape = match one {
                        millrace_driver::harness::Sent::Data(mut data) => {
                            data.addr %= 64;
                            format!("{data:?}")
                        }
                        context => format!("{context:?}"),
                    };
                    sent.push(shape);
                });
                format!("{n:?} {sent:?}")
            }
        }
    }

    /// Everything is given back, and every buffer is home.
    fn end(self) -> u32 {
        let Side { nic, rx, tx, batch } = self;
        let region = nic.region().clone();
        drop(batch);
        nic.close();
        drop((rx, tx));
        region.in_flight()
    }
}

fn bits(written: &Written) -> [u64; 2] {
    match *written {
        Written::Good {
            len,
            hash,
            vlan,
            flags,
        } => {
            let mut wb = WriteBack {
                hash,
                vlan,
                ..good(len)
            };
            wb.status_error |= flags;
            wb.encode()
        }
        Written::Part { len } => WriteBack {
            status_error: status::DD,
            len,
            ..WriteBack::default()
        }
        .encode(),
        Written::Damaged => {
            let mut wb = good(60);
            wb.status_error |= error::RXE;
            wb.encode()
        }
        Written::Any { low, high } => [low, high],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn scalar_and_avx2_see_and_do_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let Some(avx2) = CpuPath::avx2() else {
            println!("SKIP scalar_and_avx2_see_and_do_the_same: this processor has no AVX2");
            return Ok(());
        };
        let (mut one, mut other) = (Side::new(CpuPath::SCALAR), Side::new(avx2));
        for (i, step) in steps.iter().enumerate() {
            prop_assert_eq!(one.step(step), other.step(step), "step {}: {:?}", i, step);
        }
        prop_assert_eq!((one.end(), other.end()), (0, 0), "buffers are lost");
    }
}
