//! Frames one behind the other in one piece of memory.

/// A batch of frames. Its memory is kept and never cleared: what lies behind the last frame means nothing.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    /// Where the last one does.
    used: usize,
}

impl Frames {
    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Memory behind the last frame, with anything in it.
    #[inline]
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        let (start, end) = (self.used, self.used + len);
        if self.bytes.len() < end {
            self.grow(end);
        }
        &mut self.bytes[start..end]
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.bytes.resize(end.next_power_of_two().max(4096), 0);
    }

    /// The first `len` bytes of the memory that [`Frames::room`] gave are the next frame.
    #[inline]
    pub fn commit(&mut self, len: usize) {
        self.used = (self.used + len).min(self.bytes.len());
        self.ends.push(self.used);
    }

    #[inline]
    pub fn push(&mut self, frame: &[u8]) {
        self.room(frame.len()).copy_from_slice(frame);
        self.commit(frame.len());
    }

    /// No frames.
    pub fn clear(&mut self) {
        self.used = 0;
        self.ends.clear();
    }

    /// Frame `i`.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let start = if i == 0 { 0 } else { *self.ends.get(i - 1)? };
        self.bytes.get(start..*self.ends.get(i)?)
    }

    /// Frame `from` and those behind it, `max` at most.
    pub fn batch(&self, from: usize, max: usize) -> Batch<'_> {
        let start = from
            .checked_sub(1)
            .and_then(|i| self.ends.get(i))
            .copied()
            .unwrap_or(0);
        let ends = self.ends.get(from..).unwrap_or_default();
        Batch {
            bytes: &self.bytes,
            start,
            ends: ends[..ends.len().min(max)].iter(),
        }
    }

    /// Appends the frames of `other`, which has none afterwards.
    pub fn take_all(&mut self, other: &mut Frames) {
        let (before, more) = (self.used, other.used);
        self.room(more).copy_from_slice(&other.bytes[..more]);
        self.ends.extend(other.ends.iter().map(|end| before + end));
        self.used += more;
        other.clear();
    }
}

/// Frames that a wire hands over together, in order.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    bytes: &'a [u8],
    /// Where the next one starts.
    start: usize,
    ends: std::slice::Iter<'a, usize>,
}

impl<'a> Iterator for Batch<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = *self.ends.next()?;
        let frame = self.bytes.get(self.start..end);
        self.start = end;
        frame
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl ExactSizeIterator for Batch<'_> {}

/// Room for frames that go out together: what [`super::Wire::room`] and [`super::Wire::commit`] do, without asking the wire for
/// each frame.
#[derive(Debug)]
pub struct Outgoing<'a> {
    pub(super) frames: &'a mut Frames,
    /// How many frames it takes in all.
    pub(super) limit: usize,
    /// Counts what is sent.
    pub(super) sent: &'a mut u64,
}

impl Outgoing<'_> {
    /// As [`super::Wire::room`].
    #[inline]
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        (self.frames.len() < self.limit).then(|| self.frames.room(len))
    }

    /// As [`super::Wire::commit`].
    #[inline]
    pub fn commit(&mut self, len: usize) {
        self.frames.commit(len);
        *self.sent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &Frames) -> Vec<&[u8]> {
        (0..frames.len()).filter_map(|i| frames.get(i)).collect()
    }

    #[test]
    fn frames_come_out_as_they_went_in_pushed_or_filled_in_place() {
        let mut frames = Frames::default();
        frames.push(b"one");
        frames.room(6).copy_from_slice(b"second");
        assert_eq!(all(&frames), [b"one"], "room alone is no frame");
        frames.commit(6);
        frames.push(b"");
        frames.push(&[7; 9000]);
        assert_eq!(all(&frames), [&b"one"[..], b"second", b"", &[7; 9000]]);
        assert_eq!(frames.get(4), None);
    }

    #[test]
    fn frames_from_any_one_on_come_out_together_as_many_as_are_asked_for() {
        let mut frames = Frames::default();
        for frame in [&b"one"[..], b"second", b"", b"last"] {
            frames.push(frame);
        }
        for from in 0..=4 {
            for max in 0..=5 {
                let want: Vec<&[u8]> = all(&frames).into_iter().skip(from).take(max).collect();
                let batch = frames.batch(from, max);
                assert_eq!(batch.len(), want.len());
                assert_eq!(batch.collect::<Vec<_>>(), want, "{max} from {from}");
            }
        }
        assert_eq!(frames.batch(9, 9).next(), None);
    }

    #[test]
    fn a_batch_appended_to_another_leaves_nothing_behind_and_old_bytes_never_show() {
        let (mut a, mut b) = (Frames::default(), Frames::default());
        a.push(&[9; 100]);
        a.clear();
        a.push(b"a");
        b.push(b"bb");
        b.push(b"c");
        a.take_all(&mut b);
        assert!(b.is_empty() && b.get(0).is_none());
        assert_eq!(all(&a), [&b"a"[..], b"bb", b"c"]);
        b.push(b"again");
        assert_eq!(all(&b), [b"again"]);
    }
}
