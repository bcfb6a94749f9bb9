//! Moving the edges of a frame and copying parts of it: `bpf_xdp_adjust_*`, `bpf_xdp_load_bytes`, `_store_bytes`.

use crate::{Errno, XdpBuff};

/// `ETH_HLEN`: a frame cannot be shorter.
pub(crate) const ETH_HLEN: usize = 14;
/// Room the kernel keeps for `struct xdp_frame` at the start of the headroom (net/core/filter.c,
/// `bpf_xdp_adjust_head`); programs that fill their headroom to the last byte see the same limit here.
pub(crate) const XDP_FRAME_SIZE: usize = 40;
/// Largest metadata area (net/core/xdp.h, `xdp_metalen_invalid`).
pub(crate) const META_MAX: usize = 255;

/// Bytes of the frame as a slice.
pub(crate) fn bytes<'b>(buf: &'b XdpBuff<'_>) -> &'b [u8] {
    // SAFETY: `data..data_end` lies in the buffer that `XdpBuff::new` borrowed mutably for longer than `buf` lives (the
    // type's invariant), and `&buf` means that nobody writes meanwhile.
    unsafe { std::slice::from_raw_parts(buf.data, buf.len()) }
}

/// Bytes of the frame as a mutable slice.
pub(crate) fn bytes_mut<'b>(buf: &'b mut XdpBuff<'_>) -> &'b mut [u8] {
    // SAFETY: as for `bytes`; `&mut buf` makes the access exclusive.
    unsafe { std::slice::from_raw_parts_mut(buf.data, buf.len()) }
}

/// The raw descriptor write-back beside the frame.
pub(crate) fn hints<'a>(buf: &XdpBuff<'a>) -> &'a [u8] {
    // SAFETY: pointer and length come from the slice that `XdpBuff::new` borrowed, shared, for 'a; the buffer, which is
    // borrowed mutably for as long, is none of it.
    unsafe { std::slice::from_raw_parts(buf.hints, buf.hints_len as usize) }
}

/// The whole buffer, head- and tailroom included.
fn whole<'b>(buf: &'b mut XdpBuff<'_>) -> &'b mut [u8] {
    let len = buf.frame_end.addr() - buf.hard_start.addr();
    // SAFETY: this is the whole buffer that `XdpBuff::new` borrowed mutably; `&mut buf` makes the access exclusive.
    unsafe { std::slice::from_raw_parts_mut(buf.hard_start, len) }
}

/// `bpf_xdp_adjust_head`: metadata in front of the frame moves along.
pub(crate) fn adjust_head(buf: &mut XdpBuff<'_>, delta: i32) -> Result<(), Errno> {
    let meta_len = buf.meta_len();
    let data = buf.data_offset();
    let end = data + buf.len();
    let new = data.checked_add_signed(delta as isize).ok_or(Errno::INVAL)?;
    if new < XDP_FRAME_SIZE.min(data - meta_len) + meta_len || new + ETH_HLEN > end {
        return Err(Errno::INVAL);
    }
    if meta_len != 0 {
        let old_meta = data - meta_len;
        whole(buf).copy_within(old_meta..data, new - meta_len);
    }
    buf.data = buf.hard_start.wrapping_add(new);
    buf.data_meta = buf.hard_start.wrapping_add(new - meta_len);
    Ok(())
}

/// `bpf_xdp_adjust_meta`: the area's size must be a multiple of 4 and at most 252 bytes.
pub(crate) fn adjust_meta(buf: &mut XdpBuff<'_>, delta: i32) -> Result<(), Errno> {
    let data = buf.data_offset();
    let meta = (data - buf.meta_len())
        .checked_add_signed(delta as isize)
        .ok_or(Errno::INVAL)?;
    if meta < XDP_FRAME_SIZE.min(data) || meta > data {
        return Err(Errno::INVAL);
    }
    let len = data - meta;
    if len > META_MAX || !len.is_multiple_of(4) {
        return Err(Errno::ACCESS);
    }
    buf.data_meta = buf.hard_start.wrapping_add(meta);
    Ok(())
}

/// Makes room for `len` more bytes of metadata in front of the frame and of what metadata it has; gives those bytes. `None`
/// where [`adjust_meta`] would refuse.
#[inline]
pub(crate) fn put_meta<'b>(buf: &'b mut XdpBuff<'_>, len: usize) -> Option<&'b mut [u8]> {
    adjust_meta(buf, -i32::try_from(len).ok()?).ok()?;
    let start = buf.data_offset() - buf.meta_len();
    whole(buf).get_mut(start..start + len)
}

/// Takes the first `len` bytes of the frame's metadata away again.
#[inline]
pub(crate) fn take_meta(buf: &mut XdpBuff<'_>, len: usize) {
    let len = len.min(buf.meta_len());
    buf.data_meta = buf.data_meta.wrapping_add(len);
}

/// `bpf_xdp_adjust_tail`: bytes that a growing frame gains are zero.
pub(crate) fn adjust_tail(buf: &mut XdpBuff<'_>, delta: i32) -> Result<(), Errno> {
    let data = buf.data_offset();
    let end = data + buf.len();
    let limit = buf.frame_end.addr() - buf.hard_start.addr();
    let new = end.checked_add_signed(delta as isize).ok_or(Errno::INVAL)?;
    if new > limit || new < data + ETH_HLEN {
        return Err(Errno::INVAL);
    }
    if new > end {
        whole(buf)[end..new].fill(0);
    }
    buf.data_end = buf.hard_start.wrapping_add(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_moves_within_the_headroom_and_takes_metadata_along() {
        let mut frame = vec![0u8; 512];
        frame[256..320].fill(7);
        let mut buf = XdpBuff::new(&mut frame, 256, 64, 0, &[]);
        adjust_meta(&mut buf, -8).unwrap();
        assert_eq!(buf.meta_len(), 8);
        adjust_head(&mut buf, -20).unwrap();
        assert_eq!((buf.data_offset(), buf.len(), buf.meta_len()), (236, 84, 8));
        assert_eq!(adjust_head(&mut buf, -200), Err(Errno::INVAL));
        assert_eq!(adjust_head(&mut buf, 80), Err(Errno::INVAL));
        adjust_head(&mut buf, 20).unwrap();
        assert_eq!(bytes(&buf), &[7; 64]);
    }

    #[test]
    fn metadata_is_a_multiple_of_four_and_ends_at_the_frame() {
        let mut frame = vec![0u8; 512];
        let mut buf = XdpBuff::new(&mut frame, 300, 64, 0, &[]);
        assert_eq!(adjust_meta(&mut buf, -6), Err(Errno::ACCESS));
        assert_eq!(adjust_meta(&mut buf, 4), Err(Errno::INVAL));
        assert_eq!(adjust_meta(&mut buf, -256), Err(Errno::ACCESS));
        assert_eq!(adjust_meta(&mut buf, -252), Ok(()));
    }

    #[test]
    fn tail_grows_with_zeroes_to_the_end_of_the_buffer() {
        let mut frame = vec![9u8; 200];
        let mut buf = XdpBuff::new(&mut frame, 100, 60, 0, &[]);
        adjust_tail(&mut buf, 40).unwrap();
        assert_eq!(&bytes(&buf)[60..], &[0; 40]);
        assert_eq!(adjust_tail(&mut buf, 1), Err(Errno::INVAL));
        assert_eq!(adjust_tail(&mut buf, -87), Err(Errno::INVAL));
        adjust_tail(&mut buf, -86).unwrap();
        assert_eq!(buf.len(), 14);
    }

    #[test]
    fn empty_hints_are_an_empty_slice() {
        let mut frame = [0u8; 64];
        let buf = XdpBuff::new(&mut frame, 0, 64, 0, &[]);
        assert!(hints(&buf).is_empty());
    }
}
