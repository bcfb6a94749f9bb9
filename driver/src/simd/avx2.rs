//! Four packets a step with AVX2, on 16-byte descriptors.
//!
//! A handle is eight bytes: tag, length in bits 47:32, offset in bits 63:48. A written-back descriptor has its length in the
//! same bits of its last quadword, so four handles are four tags, four lengths and one constant. Descriptors are read by
//! 16-byte loads in assembly: another agent writes them, and an aligned 16-byte load is one access on every processor with
//! AVX (Intel SDM volume 3, 9.1.1).

use std::arch::asm;
use std::arch::x86_64::*;

use super::{CpuPath, Kind, Receive, STEP, Transmit, Work, prefetch};

/// See [`CpuPath::run`](super::CpuPath::run).
#[target_feature(enable = "avx2")]
#[inline(never)]
pub(super) fn run<W: Work<A, B, C>, A, B, C>(a: A, b: B, c: C) -> W::Out {
    W::work(CpuPath(Kind::Avx2), a, b, c)
}

/// Takes whole steps of received frames out of at most `n` descriptors and puts fresh buffers in their places. Gives how many
/// it took and the sum of their lengths, in the length's bits. Stops in front of a step in which something is not as `k`
/// wants it or has no buffer. `FETCH` starts loading each frame's first line, so that all of a burst are under way before the
/// first is looked at.
///
/// # Safety
/// The processor has AVX2. All pointers are valid for `n` elements: descriptors, tags (0 for none), handles and raw
/// write-backs, `fresh` for `n` elements in front of it. Nobody else uses tags, handles, raw write-backs and `fresh`
/// meanwhile; the descriptors may be written by others, but not those that are done.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn exchange<const FETCH: bool>(
    n: usize,
    ring: *mut [u64; 2],
    tags: *mut u32,
    fresh: *const u32,
    slots: *mut u64,
    raw: *mut [u64; 2],
    k: &Receive,
) -> (usize, u64) {
    let all = |x: u64| _mm256_set1_epi64x(x as i64);
    let (minus, mask, want) = (all(k.minus), all(k.mask), all(k.want));
    let (head, base) = (all(k.head), all(k.base));
    // Only the lower half of each quadword is multiplied.
    let stride = _mm256_set1_epi32(k.stride as i32);
    let first = _mm_set1_epi32(k.first as i32);
    let zero = _mm256_setzero_si256();
    let mut ranges = zero;
    let (mut at, end) = (0, n - n % STEP);
    while at != end {
        let (d01, d23): (__m256i, __m256i);
        // SAFETY: `at + 4` is at most `n`, and four descriptors are 64 bytes. The ring is aligned to 16 bytes.
        unsafe {
            asm!(
                "vmovdqa {a:x}, [{p}]",
                "vinserti128 {a}, {a}, [{p} + 16], 1",
                "vmovdqa {b:x}, [{p} + 32]",
                "vinserti128 {b}, {b}, [{p} + 48], 1",
                p = in(reg) ring.add(at),
                a = out(ymm_reg) d01,
                b = out(ymm_reg) d23,
                options(nostack, preserves_flags, readonly),
            );
        }
        let last = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpackhi_epi64(d01, d23));
        let buffers: __m256i;
        // SAFETY: as above; four tags are 16 bytes. In assembly because the compiler would load, compare and widen them one after
        // the other.
        unsafe {
            asm!(
                "vpmovzxdq {b}, [{p} + {at} * 4]",
                p = in(reg) tags,
                at = in(reg) at,
                b = out(ymm_reg) buffers,
                options(nostack, preserves_flags, readonly),
            );
        }
        let wrong = _mm256_xor_si256(_mm256_and_si256(_mm256_sub_epi64(last, minus), mask), want);
        let wrong = _mm256_or_si256(wrong, _mm256_cmpeq_epi64(buffers, zero));
        if _mm256_testz_si256(wrong, wrong) == 0 {
            break;
        }
        if FETCH {
            // A tag is its region's first one plus the index, so `here` makes an address of the product.
            let data = times(buffers, stride);
            let (low, high) = (_mm256_castsi256_si128(data), _mm256_extracti128_si256::<1>(data));
            for two in [low, high] {
                prefetch(k.here.wrapping_add(_mm_cvtsi128_si64(two) as u64));
                prefetch(k.here.wrapping_add(_mm_extract_epi64::<1>(two) as u64));
            }
        }
        // The length's word out of the descriptor, the offset's out of `head`, and the tag below.
        let range = _mm256_blend_epi16::<0b0100_0100>(head, last);
        ranges = _mm256_add_epi64(ranges, range);
        let handles = _mm256_blend_epi32::<0b0101_0101>(range, buffers);
        // SAFETY: as above; `fresh` has `n` elements in front of it.
        let indices = unsafe { _mm_loadu_si128(fresh.sub(at + STEP).cast()) };
        let addr = _mm256_add_epi64(times(_mm256_cvtepu32_epi64(indices), stride), base);
        // Which of the four goes where does not matter, as long as descriptor and record say the same: the second and the third
        // change places, since the descriptors are unpacked so.
        let indices = _mm_shuffle_epi32::<0b11_01_10_00>(indices);
        // SAFETY: as above. The four descriptors are done, so they are the driver's.
        unsafe {
            _mm256_storeu_si256(raw.add(at).cast(), d01);
            _mm256_storeu_si256(raw.add(at + 2).cast(), d23);
            _mm256_storeu_si256(slots.add(at).cast(), handles);
            _mm_storeu_si128(tags.add(at).cast(), _mm_or_si128(indices, first));
            put(
                ring.add(at),
                _mm256_unpacklo_epi64(addr, zero),
                _mm256_unpackhi_epi64(addr, zero),
            );
        }
        at += STEP;
    }
    // The offsets have been added up too.
    (at, sum(ranges).wrapping_sub(k.head.wrapping_mul(at as u64)))
}

/// What stays the same for every frame to be sent, in registers.
#[derive(Clone, Copy)]
struct Sending {
    first: __m256i,
    base: __m256i,
    stride: __m256i,
    least: __m256i,
    fits: __m256i,
    bits: __m256i,
    twice: __m256i,
    shift: __m256i,
    low: __m256i,
}

/// Four frames: their descriptors, crossed as [`put_crossed`] wants them, their tags, and their lengths, in both halves of each
/// quadword.
struct Four {
    d02: __m256i,
    d13: __m256i,
    tags: __m128i,
    lens: __m256i,
}

/// Describes four frames; nothing if a slot is empty or its frame not as `k` wants it.
#[target_feature(enable = "avx2")]
#[inline]
fn describe(handles: __m256i, k: &Sending) -> Option<Four> {
    let index = _mm256_xor_si256(handles, k.first);
    // In words of 16 bits: what is less than the least length has something left of that.
    let bad = _mm256_or_si256(beyond(index, k.fits), _mm256_subs_epu16(k.least, index));
    if _mm256_testz_si256(bad, bad) == 0 {
        return None;
    }
    let off = _mm256_srli_epi64::<48>(index);
    let addr = _mm256_add_epi64(times(index, k.stride), _mm256_add_epi64(k.base, off));
    let lens = _mm256_shuffle_epi8(index, k.twice);
    let last = _mm256_add_epi64(_mm256_sllv_epi32(lens, k.shift), k.bits);
    Some(Four {
        d02: _mm256_unpacklo_epi64(addr, last),
        d13: _mm256_unpackhi_epi64(addr, last),
        tags: _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(handles, k.low)),
        lens,
    })
}

/// What is known of every frame, in registers.
#[target_feature(enable = "avx2")]
#[inline]
fn sending(k: &Transmit) -> Sending {
    let all = |x: u64| _mm256_set1_epi64x(x as i64);
    Sending {
        first: all(k.first),
        base: all(k.base),
        // Only the lower half of each quadword is multiplied.
        stride: _mm256_set1_epi32(k.stride as i32),
        least: all(k.least << 32),
        fits: all(k.fits),
        bits: all(k.bits),
        // A word of the length in each half, and nothing above it.
        twice: _mm256_broadcastsi128_si256(_mm_set_epi64x(
            0x8080_0d0c_8080_0d0cu64 as i64,
            0x8080_0504_8080_0504u64 as i64,
        )),
        shift: all((k.shift - 32) << 32),
        low: _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6),
    }
}

/// Puts whole steps of frames of one buffer, side by side in `slots`, into at most `n` descriptors, and takes their handles.
/// Gives how many it put and the sum of their lengths. Stops in front of a step whose `frames` do not go upwards one by one
/// from the first on, or in which a slot is empty or its frame not as `k` wants it.
///
/// # Safety
/// The processor has AVX2. `ring`, `tags` and `frames` are valid for `n` elements, `frames` for one at least, `slots` for `places` handles, empty
/// or not, 256 at most, and nobody else uses them meanwhile.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn send(
    n: usize,
    ring: *mut [u64; 2],
    tags: *mut u32,
    frames: *const u8,
    slots: *mut u64,
    places: usize,
    k: &Transmit,
) -> (usize, u64) {
    let known = sending(k);
    let mut lens = _mm256_setzero_si256();
    // SAFETY: there is at least one.
    let from = usize::from(unsafe { *frames });
    let mut at = 0;
    if from + n > places {
        return (0, 0);
    }
    let slots = slots.wrapping_add(from);
    // No number carries anything into the next byte, since the last is below `places`.
    let mut upwards = (from as u32).wrapping_mul(0x0101_0101).wrapping_add(0x0302_0100);
    let end = n - n % STEP;
    while at != end {
        // SAFETY: `at + 4` is at most `n`.
        if u32::from_le(unsafe { frames.add(at).cast::<u32>().read_unaligned() }) != upwards {
            break;
        }
        upwards = upwards.wrapping_add(0x0404_0404);
        let handles: __m256i;
        // SAFETY: `from + n` is at most `places`. In assembly because the upper half of an empty slot may never have been
        // written; what is read there is not used.
        unsafe {
            asm!(
                "vmovdqu {h}, [{p} + {at} * 8]",
                p = in(reg) slots,
                at = in(reg) at,
                h = out(ymm_reg) handles,
                options(nostack, preserves_flags, readonly),
            );
        }
        let Some(four) = describe(handles, &known) else {
            break;
        };
        lens = _mm256_add_epi64(lens, four.lens);
        // SAFETY: as above. The device has not been shown these descriptors.
        unsafe {
            put_crossed(ring.add(at), four.d02, four.d13);
            _mm_storeu_si128(tags.add(at).cast(), four.tags);
            _mm256_storeu_si256(slots.add(at).cast(), _mm256_setzero_si256());
        }
        at += STEP;
    }
    (at, sum(lens) & u64::from(u32::MAX))
}

/// As [`send`], for frames that need not lie side by side: a list with gaps, as has who sends by one queue of several. Stops in
/// front of a step whose `frames` do not go upwards.
///
/// # Safety
/// As [`send`].
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn send_listed(
    n: usize,
    ring: *mut [u64; 2],
    tags: *mut u32,
    frames: *const u8,
    slots: *mut u64,
    places: usize,
    k: &Transmit,
) -> (usize, u64) {
    let known = sending(k);
    let mut lens = _mm256_setzero_si256();
    let (mut at, end) = (0, n - n % STEP);
    while at != end {
        // Each number is higher than the one before, so none is there twice, and the last is below `places`, so all are.
        // SAFETY: `at + 4` is at most `n`.
        let numbers = unsafe { frames.add(at).cast::<[u8; STEP]>().read() };
        let wide = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(i32::from_le_bytes(numbers)));
        let [a, b, c, d] = numbers.map(usize::from);
        let higher = _mm_cmpgt_epi32(_mm_shuffle_epi32::<0b11_11_10_01>(wide), wide);
        if _mm_movemask_ps(_mm_castsi128_ps(higher)) != 0b0111 || d >= places {
            break;
        }
        let handles: __m256i;
        // SAFETY: the four places are there, as just seen. In assembly as in `send`, and one by one: with the microcode against
        // gather data sampling one gathering instruction takes as long as thirty others.
        unsafe {
            asm!(
                "vmovq {h:x}, [{p} + {a} * 8]",
                "vpinsrq {h:x}, {h:x}, [{p} + {b} * 8], 1",
                "vmovq {t:x}, [{p} + {c} * 8]",
                "vpinsrq {t:x}, {t:x}, [{p} + {d} * 8], 1",
                "vinserti128 {h}, {h}, {t:x}, 1",
                p = in(reg) slots,
                a = in(reg) a,
                b = in(reg) b,
                c = in(reg) c,
                d = in(reg) d,
                t = out(ymm_reg) _,
                h = out(ymm_reg) handles,
                options(nostack, preserves_flags, readonly),
            );
        }
        let Some(four) = describe(handles, &known) else {
            break;
        };
        lens = _mm256_add_epi64(lens, four.lens);
        // SAFETY: as above. The device has not been shown these descriptors.
        unsafe {
            put_crossed(ring.add(at), four.d02, four.d13);
            _mm_storeu_si128(tags.add(at).cast(), four.tags);
            for number in [a, b, c, d] {
                slots.add(number).write(0);
            }
        }
        at += STEP;
    }
    (at, sum(lens) & u64::from(u32::MAX))
}

/// What is wrong with four handles, or nothing. `indices` are their bits with those of the region's first tag changed: index,
/// length, offset. `fits` has in each word of 16 bits the most that may be there, and in the length's the most that length and offset
/// may be together, less than all ones; in the offset's, all ones.
#[target_feature(enable = "avx2")]
#[inline]
fn beyond(indices: __m256i, fits: __m256i) -> __m256i {
    // The lower half of the index counts for nothing, and nothing is added to the upper one. Sums stop at all ones.
    let ends = _mm256_adds_epu16(indices, _mm256_srli_epi32::<16>(indices));
    _mm256_subs_epu16(ends, fits)
}

/// Finds the data of whole steps of frames of one buffer among `n` slots: writes to `starts` how many bytes from the region's
/// first one on each begins. Gives how many. Stops in front of a step in which a slot is empty, goes on in the next, holds
/// another region's buffer (a tag that is not `first` with a small enough index), or has data that leaves its buffer, as `fits`
/// says (see [`beyond`]).
///
/// # Safety
/// The processor has AVX2, both pointers are valid for `n` elements, slots empty or not, and nobody else uses them meanwhile.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn heads(
    n: usize,
    slots: *const u64,
    starts: *mut u64,
    first: u32,
    stride: u32,
    fits: u64,
) -> usize {
    let first = _mm256_set1_epi64x(i64::from(first));
    // What lies in the upper half is not multiplied.
    let stride = _mm256_set1_epi32(stride as i32);
    let fits = _mm256_set1_epi64x(fits as i64);
    let (mut at, end) = (0, n - n % STEP);
    while at != end {
        let handles: __m256i;
        // SAFETY: `at + 4` is at most `n`; in assembly as in `send`.
        unsafe {
            asm!(
                "vmovdqu {h}, [{p} + {at} * 8]",
                p = in(reg) slots,
                at = in(reg) at,
                h = out(ymm_reg) handles,
                options(nostack, preserves_flags, readonly),
            );
        }
        let indices = _mm256_xor_si256(handles, first);
        let bad = beyond(indices, fits);
        if _mm256_testz_si256(bad, bad) == 0 {
            break;
        }
        let off = _mm256_srli_epi64::<48>(indices);
        // SAFETY: `at + 4` is at most `n`.
        unsafe {
            _mm256_storeu_si256(
                starts.add(at).cast(),
                _mm256_add_epi64(times(indices, stride), off),
            );
        }
        at += STEP;
    }
    at
}

/// Moves whole steps of buffers out of at most `n` tags to `out`, as indices. Gives how many. Stops in front of a step in
/// which there is a tag that is not `first` with an index under `index`.
///
/// # Safety
/// The processor has AVX2, both pointers are valid for `n` elements, and nobody else uses them meanwhile.
#[target_feature(enable = "avx2")]
#[inline(never)]
pub(crate) unsafe fn recycle(n: usize, tags: *mut u32, out: *mut u32, first: u32, index: u32) -> usize {
    const TWICE: usize = 2 * STEP;
    let (first, foreign) = (_mm256_set1_epi32(first as i32), _mm256_set1_epi32(!index as i32));
    let (mut at, end) = (0, n - n % TWICE);
    while at != end {
        // SAFETY: `at + 8` is at most `n`.
        unsafe {
            let indices = _mm256_xor_si256(_mm256_loadu_si256(tags.add(at).cast()), first);
            if _mm256_testz_si256(indices, foreign) == 0 {
                break;
            }
            _mm256_storeu_si256(out.add(at).cast(), indices);
            _mm256_storeu_si256(tags.add(at).cast(), _mm256_setzero_si256());
        }
        at += TWICE;
    }
    at
}

/// Moves whole steps of buffers out of at most `n` slots to `out`, as indices, as [`recycle`].
///
/// # Safety
/// As [`recycle`], with handles for tags, empty or not.
#[target_feature(enable = "avx2")]
#[inline(never)]
pub(crate) unsafe fn keep(n: usize, slots: *mut u64, out: *mut u32, first: u32, index: u32) -> usize {
    let all = |x: u32| _mm256_set1_epi64x(i64::from(x));
    let (first, foreign) = (all(first), all(!index));
    let low = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    let (mut at, end) = (0, n - n % STEP);
    while at != end {
        let handles: __m256i;
        // SAFETY: `at + 4` is at most `n`; in assembly as in `send`.
        unsafe {
            asm!(
                "vmovdqu {h}, [{p}]",
                p = in(reg) slots.add(at),
                h = out(ymm_reg) handles,
                options(nostack, preserves_flags, readonly),
            );
        }
        let indices = _mm256_xor_si256(handles, first);
        if _mm256_testz_si256(indices, foreign) == 0 {
            break;
        }
        // SAFETY: `at + 4` is at most `n`.
        unsafe {
            let indices = _mm256_permutevar8x32_epi32(indices, low);
            _mm_storeu_si128(out.add(at).cast(), _mm256_castsi256_si128(indices));
            _mm256_storeu_si256(slots.add(at).cast(), _mm256_setzero_si256());
        }
        at += STEP;
    }
    at
}

/// The products of the lower halves of quadwords. In assembly because the compiler makes a full multiplication of it, of
/// five instructions, once it has lost sight of the upper halves being zero or ignored.
#[target_feature(enable = "avx2")]
#[inline]
fn times(a: __m256i, b: __m256i) -> __m256i {
    let product;
    // SAFETY: the function is only called where there is AVX2; the instruction touches nothing but its registers.
    unsafe {
        asm!(
            "vpmuludq {p}, {a}, {b}",
            p = lateout(ymm_reg) product,
            a = in(ymm_reg) a,
            b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    product
}

/// Stores four descriptors.
///
/// # Safety
/// The processor has AVX2, and there is room for four descriptors, which are the driver's.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn put(ring: *mut [u64; 2], d01: __m256i, d23: __m256i) {
    // SAFETY: four descriptors are 64 bytes. In assembly because a model in another thread may look at them.
    unsafe {
        asm!(
            "vmovdqu [{p}], {a}",
            "vmovdqu [{p} + 32], {b}",
            p = in(reg) ring,
            a = in(ymm_reg) d01,
            b = in(ymm_reg) d23,
            options(nostack, preserves_flags),
        );
    }
}

/// Stores four descriptors of which one register holds the first and the third, the other the second and the fourth.
///
/// # Safety
/// As [`put`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn put_crossed(ring: *mut [u64; 2], d02: __m256i, d13: __m256i) {
    // SAFETY: as in `put`.
    unsafe {
        asm!(
            "vmovdqu [{p}], {a:x}",
            "vmovdqu [{p} + 16], {b:x}",
            "vextracti128 [{p} + 32], {a}, 1",
            "vextracti128 [{p} + 48], {b}, 1",
            p = in(reg) ring,
            a = in(ymm_reg) d02,
            b = in(ymm_reg) d13,
            options(nostack, preserves_flags),
        );
    }
}

/// The sum of four quadwords.
#[target_feature(enable = "avx2")]
#[inline]
fn sum(x: __m256i) -> u64 {
    let two = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let one = _mm_add_epi64(two, _mm_unpackhi_epi64(two, two));
    _mm_cvtsi128_si64(one) as u64
}
