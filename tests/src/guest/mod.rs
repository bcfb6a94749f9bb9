//! Guests that run drivers nobody here wrote (Linux's own, DPDK's) on our device models.
//!
//! [`fetch`] brings QEMU, kernels and tools into a cache folder with apt, installing nothing on the host; [`image`]
//! makes an initramfs of them ([`cpio`], [`kmod`]); [`qemu`] boots it with a `nic-model` attached over vfio-user and
//! reads the results, one line a scenario, from the serial line. [`scenario`] is what each boot runs, [`linux`] the
//! suites for Linux's own drivers, helped by [`line`] from the far end of the wire, [`vfio`] those for ours on the kernel's
//! VFIO ([`binaries`]: programs of this workspace in a guest; [`talk`]: what a guest asks the host), [`dpdk`] those for
//! DPDK's ([`recording`]: what left through a model's wire), [`suites`] the list of all. [`tally`] reports, and holds what
//! was seen against [`compat`], the matrix of what works.

pub mod binaries;
pub mod compat;
pub mod cpio;
pub mod dpdk;
pub mod fetch;
pub mod image;
pub mod kmod;
pub mod line;
pub mod linux;
pub mod model;
pub mod qemu;
pub mod recording;
pub mod scenario;
pub mod suites;
pub mod talk;
pub mod tally;
pub mod vfio;

/// What can go wrong before a scenario can be judged.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Something the lab needs cannot be had on this machine; its scenarios are skipped by name.
    #[error("{0}")]
    Unavailable(String),
    /// A step of the lab itself failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file did not have the shape it should have.
    #[error("{0}")]
    Malformed(String),
}

impl LabError {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
