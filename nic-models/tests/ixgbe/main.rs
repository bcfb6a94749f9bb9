//! The 82599 model driven by hand, as a driver would: registers, rings in memory, and a wire held at both ends.

mod batches;
mod control;
mod flow_director;
mod interrupts;
mod mapped;
mod noise;
mod receive;
mod receive_rounds;
mod rig;
mod stress;
mod transmit;
