//! What people get wrong: each mistake costs a non-zero status and one clear line that says what to do next, soon, and leaves
//! nothing behind. The real programs are run; `start` has mistakes in how they are called, `running` what befalls them later.

mod rig;
mod running;
mod start;
