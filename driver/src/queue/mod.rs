//! The queues a worker holds, without regard to the family behind them.
//!
//! [`RxQueue::poll`] fills an [`RxBatch`]; the worker looks at it, moves what it wants to send into a [`TxQueue`]
//! and calls [`TxQueue::submit`] once. Both faces choose the family once a call, never once a frame. A queue
//! belongs to one thread: it is `Send` and, having only `&mut self` methods on its path, needs no lock.

mod batch;
mod meta;
mod rx;
mod shared;
mod tx;

pub use batch::{BATCH, BufferView, FramesMut, MAX_RUN, RxBatch};
pub use meta::{TxFlags, TxMeta, TxRefused};
pub use rx::RxQueue;
pub use tx::{MAX_TX_RUN, TxQueue};

pub(crate) use batch::KEY_STEP;
pub(crate) use rx::RxFamily;
pub(crate) use shared::{PortShared, checked_len};
pub(crate) use tx::TxFamily;
