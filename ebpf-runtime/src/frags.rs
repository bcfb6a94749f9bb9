//! Frames that take several buffers (`xdp.frags`). A program's data pointers reach the first buffer only; what lies behind it is
//! reached through `bpf_xdp_load_bytes`, `_store_bytes`, `_get_buff_len` and `_adjust_tail`, as in the kernel (net/core/filter.c,
//! `bpf_xdp_copy_buf`, `bpf_xdp_frags_shrink_tail`, `bpf_xdp_frags_increase_tail`).
//!
//! The later buffers are copied here for a run and taken back afterwards where the program changed them. Such frames are few,
//! and what else a program does to them touches only their first buffer.

use crate::Errno;

/// `ETH_HLEN`: a frame cannot be shorter.
const ETH_HLEN: usize = 14;

/// The buffers of one frame behind its first. Reused from frame to frame.
#[derive(Debug, Default)]
pub struct Frags {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    written: bool,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    start: usize,
    len: usize,
    /// Bytes it can grow by.
    room: usize,
}

impl Frags {
    /// No buffers.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.written = false;
    }

    /// Adds the next buffer: its bytes, and how many more its memory holds behind them.
    pub fn push(&mut self, data: &[u8], room: usize) {
        self.parts.push(Part {
            start: self.bytes.len(),
            len: data.len(),
            room,
        });
        self.bytes.extend_from_slice(data);
    }

    /// Buffers added since [`clear`](Self::clear), those that a program has emptied included.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of buffer `k`; none once a program has cut it off.
    pub fn part(&self, k: usize) -> &[u8] {
        let part = self.parts.get(k);
        part.and_then(|part| self.bytes.get(part.start..part.start + part.len))
            .unwrap_or_default()
    }

    /// Whether a program has changed bytes or lengths.
    pub fn written(&self) -> bool {
        self.written
    }

    /// Whether the frame is in one buffer.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes in all buffers behind the first.
    pub(crate) fn total(&self) -> usize {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// The bytes of all buffers behind the first from `offset` on, which are contiguous here. The caller has checked the
    /// range.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        if let Some(from) = self.bytes.get(offset..offset + out.len()) {
            out.copy_from_slice(from);
        }
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        if let Some(to) = self.bytes.get_mut(offset..offset + data.len()) {
            to.copy_from_slice(data);
            self.written = true;
        }
    }

    /// Grows the last buffer, with zeroes.
    pub(crate) fn grow(&mut self, by: usize) -> Result<(), Errno> {
        let last = self.parts.iter_mut().rfind(|part| part.len > 0);
        let part = last.filter(|part| by <= part.room).ok_or(Errno::INVAL)?;
        part.len += by;
        part.room -= by;
        self.bytes.resize(part.start + part.len, 0);
        self.written = true;
        Ok(())
    }

    /// Cuts `by` bytes off the end; gives how many of them are still to be cut off the first buffer, of `head` bytes.
    pub(crate) fn shrink(&mut self, by: usize, head: usize) -> Result<usize, Errno> {
        if by > (head + self.total()).saturating_sub(ETH_HLEN) {
            return Err(Errno::INVAL);
        }
        let mut left = by;
        for part in self.parts.iter_mut().rev() {
            let cut = left.min(part.len);
            part.len -= cut;
            part.room += cut;
            left -= cut;
        }
        let end = self.total();
        self.bytes.truncate(end);
        self.written = true;
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Frags {
        let mut frags = Frags::default();
        frags.push(&[1; 100], 0);
        frags.push(&[2; 50], 10);
        frags
    }

    #[test]
    fn bytes_are_read_and_written_across_buffers() {
        let mut frags = three();
        let mut four = [0; 4];
        frags.read(98, &mut four);
        assert_eq!((four, frags.written()), ([1, 1, 2, 2], false));
        frags.write(99, &[8, 9]);
        assert_eq!(
            (frags.part(0)[99], frags.part(1)[0], frags.written()),
            (8, 9, true)
        );
    }

    #[test]
    fn the_tail_grows_within_the_last_buffer_and_shrinks_through_all() {
        let mut frags = three();
        assert_eq!(frags.grow(11), Err(Errno::INVAL));
        frags.grow(10).unwrap();
        assert_eq!(
            (frags.part(1).len(), frags.part(1)[59], frags.total()),
            (60, 0, 160)
        );
        assert_eq!(frags.shrink(61, 64), Ok(0));
        assert_eq!((frags.part(0).len(), frags.part(1).len()), (99, 0));
        assert_eq!(
            frags.grow(2),
            Err(Errno::INVAL),
            "the first has a byte of room now, no more"
        );
        frags.grow(1).unwrap();
        assert_eq!(frags.shrink(100 + 64 - 13, 64), Err(Errno::INVAL));
        assert_eq!(frags.shrink(100 + 20, 64), Ok(20));
        assert_eq!(frags.total(), 0);
    }
}
