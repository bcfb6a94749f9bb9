//! What a program sees of a frame and what it says about it.

use std::marker::PhantomData;

/// Verdict codes of `enum xdp_action` (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum XdpAction {
    /// Program error: drop, and count as an exception.
    Aborted = 0,
    /// Drop.
    Drop = 1,
    /// Hand to the application (in the kernel: to the stack).
    Pass = 2,
    /// Send out of the port it came in on.
    Tx = 3,
    /// Send where the program's redirect helper said.
    Redirect = 4,
}

impl XdpAction {
    /// All actions in their numeric order.
    pub const ALL: [XdpAction; 5] = [
        XdpAction::Aborted,
        XdpAction::Drop,
        XdpAction::Pass,
        XdpAction::Tx,
        XdpAction::Redirect,
    ];

    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            XdpAction::Aborted => "XDP_ABORTED",
            XdpAction::Drop => "XDP_DROP",
            XdpAction::Pass => "XDP_PASS",
            XdpAction::Tx => "XDP_TX",
            XdpAction::Redirect => "XDP_REDIRECT",
        }
    }
}

impl std::str::FromStr for XdpAction {
    type Err = crate::LoadError;

    /// `XDP_PASS`, `pass` and the like.
    fn from_str(s: &str) -> Result<XdpAction, crate::LoadError> {
        let upper = s.to_ascii_uppercase();
        let name = upper.strip_prefix("XDP_").unwrap_or(&upper);
        let found = XdpAction::ALL.into_iter().find(|a| a.name()[4..] == *name);
        found.ok_or_else(|| {
            crate::LoadError::Unsupported(format!(
                "unknown verdict `{s}`; there are aborted, drop, pass, tx and redirect"
            ))
        })
    }
}

/// Where `bpf_redirect` or `bpf_redirect_map` sends a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum RedirectKind {
    /// Nowhere: the program called no redirect helper that succeeded.
    #[default]
    None = 0,
    /// `bpf_redirect`, or a DEVMAP entry: `target` is an interface index.
    Ifindex,
    /// A CPUMAP entry: `target` is the cpu (here: the worker).
    Cpu,
    /// An XSKMAP entry: `target` is the index in the map.
    Xsk,
    /// A DEVMAP with `BPF_F_BROADCAST`: every interface in map `map`; with `BPF_F_EXCLUDE_INGRESS` in `flags`, all but
    /// the one it came in on.
    Broadcast,
}

/// The target of an `XDP_REDIRECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Redirect {
    /// Of what kind.
    pub kind: RedirectKind,
    /// Interface, worker or socket index, by `kind`.
    pub target: u32,
    /// [`crate::Map::id`] of the map that was asked, 0 for `bpf_redirect`.
    pub map: u32,
    /// Flags of the helper call.
    pub flags: u32,
}

/// What a program said about one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Verdict {
    /// The raw return value; [`Verdict::action`] maps unknown values to `XDP_ABORTED`.
    pub raw: u32,
    /// Where to, for `XDP_REDIRECT`.
    pub redirect: Redirect,
    /// Why the run was aborted, if it was.
    pub fault: crate::Fault,
}

impl Verdict {
    /// The action; a value that is none of the five is `XDP_ABORTED`, as in the kernel.
    #[inline]
    pub fn action(&self) -> XdpAction {
        match self.raw {
            1 => XdpAction::Drop,
            2 => XdpAction::Pass,
            3 => XdpAction::Tx,
            4 if self.redirect.kind != RedirectKind::None => XdpAction::Redirect,
            _ => XdpAction::Aborted,
        }
    }
}

/// One frame as handed to a program: the counterpart of the kernel's `struct xdp_buff`.
///
/// `hard_start <= data_meta <= data <= data_end <= frame_end` always holds. The pointers all lie in the buffer that
/// [`XdpBuff::new`] borrowed. They are private so that safe code cannot break that.
#[derive(Debug)]
#[repr(C)]
pub struct XdpBuff<'a> {
    pub(crate) data: *mut u8,
    pub(crate) data_end: *mut u8,
    pub(crate) data_meta: *mut u8,
    pub(crate) hard_start: *mut u8,
    pub(crate) frame_end: *mut u8,
    pub(crate) rx_queue: u32,
    pub(crate) ingress_ifindex: u32,
    pub(crate) egress_ifindex: u32,
    pub(crate) hints_len: u32,
    pub(crate) hints: *const u8,
    _frame: PhantomData<&'a mut [u8]>,
}

impl<'a> XdpBuff<'a> {
    /// A frame of `len` bytes that begins `off` bytes into `buffer`; what lies before it is headroom for
    /// `bpf_xdp_adjust_head` and `_meta`, what lies behind it tailroom for `bpf_xdp_adjust_tail`. `hints` is the raw
    /// descriptor write-back (may be empty). A range that does not fit is clamped to the buffer.
    #[inline]
    pub fn new(buffer: &'a mut [u8], off: usize, len: usize, rx_queue: u32, hints: &'a [u8]) -> XdpBuff<'a> {
        let total = buffer.len();
        let off = off.min(total);
        let end = off.saturating_add(len).min(total);
        let start = buffer.as_mut_ptr();
        XdpBuff {
            data: start.wrapping_add(off),
            data_end: start.wrapping_add(end),
            data_meta: start.wrapping_add(off),
            hard_start: start,
            frame_end: start.wrapping_add(total),
            rx_queue,
            ingress_ifindex: 0,
            egress_ifindex: 0,
            hints_len: u32::try_from(hints.len()).unwrap_or(u32::MAX),
            hints: hints.as_ptr(),
            _frame: PhantomData,
        }
    }

    /// Sets `xdp_md.ingress_ifindex`.
    #[inline]
    pub fn with_ingress_ifindex(mut self, ifindex: u32) -> XdpBuff<'a> {
        self.ingress_ifindex = ifindex;
        self
    }

    /// Where the frame begins in the buffer, in bytes; a program may have moved it.
    #[inline]
    pub fn data_offset(&self) -> usize {
        self.data.addr() - self.hard_start.addr()
    }

    /// Length of the frame, in bytes; a program may have changed it.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.data_end.addr() - self.data.addr()
    }

    /// Bytes of metadata in front of the frame (`data - data_meta`).
    #[inline]
    pub fn meta_len(&self) -> usize {
        self.data.addr() - self.data_meta.addr()
    }

    /// Receive queue the frame came from.
    pub fn rx_queue(&self) -> u32 {
        self.rx_queue
    }
}
