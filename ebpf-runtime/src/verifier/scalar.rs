//! What is known about a number: known bits, and ranges of it read as unsigned and signed, whole and low half.
//!
//! A [`Scalar`] is the set of words that all five descriptions allow. [`Scalar::tidy`] lets each description learn from
//! the others.

use super::tnum::Tnum;

/// See the module's text. The ranges are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Scalar {
    pub bits: Tnum,
    pub u: (u64, u64),
    pub s: (i64, i64),
    pub u32: (u32, u32),
    pub s32: (i32, i32),
}

const U: (u64, u64) = (0, u64::MAX);
const S: (i64, i64) = (i64::MIN, i64::MAX);
const U32: (u32, u32) = (0, u32::MAX);
const S32: (i32, i32) = (i32::MIN, i32::MAX);
const UPPER: u64 = !0xffff_ffff;

fn meet<T: Ord + Copy>(range: &mut (T, T), lo: T, hi: T) {
    range.0 = range.0.max(lo);
    range.1 = range.1.min(hi);
}

impl Scalar {
    /// Every number.
    pub const UNKNOWN: Scalar = Scalar {
        bits: Tnum::UNKNOWN,
        u: U,
        s: S,
        u32: U32,
        s32: S32,
    };

    /// One number.
    pub fn constant(value: u64) -> Scalar {
        Scalar {
            bits: Tnum::constant(value),
            u: (value, value),
            s: (value as i64, value as i64),
            u32: (value as u32, value as u32),
            s32: (value as i32, value as i32),
        }
    }

    /// The unsigned numbers `lo..=hi`.
    pub fn range(lo: u64, hi: u64) -> Scalar {
        Scalar {
            u: (lo, hi),
            ..Scalar::UNKNOWN
        }
        .tidied()
    }

    /// What a load of `bytes` bytes can give.
    pub fn of_bytes(bytes: u32) -> Scalar {
        match bytes {
            8.. => Scalar::UNKNOWN,
            n => Scalar::range(0, (1 << (8 * n)) - 1),
        }
    }

    /// Its only number, if there is just one.
    pub fn known(&self) -> Option<u64> {
        self.bits.known()
    }

    /// Whether the number is in all descriptions.
    pub fn contains(&self, x: u64) -> bool {
        let within = |x: i128, lo: i128, hi: i128| lo <= x && x <= hi;
        self.bits.contains(x)
            && within(x.into(), self.u.0.into(), self.u.1.into())
            && within((x as i64).into(), self.s.0.into(), self.s.1.into())
            && within((x as u32).into(), self.u32.0.into(), self.u32.1.into())
            && within((x as i32).into(), self.s32.0.into(), self.s32.1.into())
    }

    /// Whether every number of `other` is one of these.
    pub fn covers(&self, other: &Scalar) -> bool {
        fn wraps<T: Ord>(a: &(T, T), b: &(T, T)) -> bool {
            a.0 <= b.0 && b.1 <= a.1
        }
        self.bits.covers(other.bits)
            && wraps(&self.u, &other.u)
            && wraps(&self.s, &other.s)
            && wraps(&self.u32, &other.u32)
            && wraps(&self.s32, &other.s32)
    }

    /// Numbers in both; `None` when there are none.
    pub fn meet(&self, other: &Scalar) -> Option<Scalar> {
        let mut both = *self;
        both.bits = self.bits.meet(other.bits)?;
        meet(&mut both.u, other.u.0, other.u.1);
        meet(&mut both.s, other.s.0, other.s.1);
        meet(&mut both.u32, other.u32.0, other.u32.1);
        meet(&mut both.s32, other.s32.0, other.s32.1);
        both.tidy()
    }

    /// Each description learns from the others; `None` when they contradict each other, so that no number is left.
    pub fn tidy(mut self) -> Option<Scalar> {
        for _ in 0..3 {
            let before = self;
            self.learn_from_bits();
            self.between_signs();
            self.between_widths();
            if self.u.0 > self.u.1
                || self.s.0 > self.s.1
                || self.u32.0 > self.u32.1
                || self.s32.0 > self.s32.1
            {
                return None;
            }
            self.bits = self.bits.meet(Tnum::range(self.u.0, self.u.1))?;
            let low = self
                .bits
                .low()
                .meet(Tnum::range(self.u32.0.into(), self.u32.1.into()))?;
            self.bits = self.bits.with_low(low);
            if self == before {
                break;
            }
        }
        Some(self)
    }

    /// For results that cannot be empty because their operands were not.
    fn tidied(self) -> Scalar {
        self.tidy().unwrap_or(Scalar::UNKNOWN)
    }

    fn learn_from_bits(&mut self) {
        let Tnum { value, mask } = self.bits;
        let sign = 1 << 63;
        meet(&mut self.u, value, value | mask);
        meet(
            &mut self.s,
            (value | mask & sign) as i64,
            (value | mask & !sign) as i64,
        );
        let (value, mask, sign) = (value as u32, mask as u32, 1 << 31);
        meet(&mut self.u32, value, value | mask);
        meet(
            &mut self.s32,
            (value | mask & sign) as i32,
            (value | mask & !sign) as i32,
        );
    }

    /// A range that does not cross the other reading's seam reads the same both ways.
    fn between_signs(&mut self) {
        if self.u.0 as i64 <= self.u.1 as i64 {
            meet(&mut self.s, self.u.0 as i64, self.u.1 as i64);
        }
        if self.s.0 as u64 <= self.s.1 as u64 {
            meet(&mut self.u, self.s.0 as u64, self.s.1 as u64);
        } else {
            // The signed range holds -1 and 0. What is not in its upper part as unsigned numbers is in its lower.
            if self.u.1 < self.s.0 as u64 {
                self.u.1 = self.u.1.min(self.s.1 as u64);
                self.s.0 = self.s.0.max(0);
            } else if self.u.0 > self.s.1 as u64 {
                self.u.0 = self.u.0.max(self.s.0 as u64);
                self.s.1 = self.s.1.min(-1);
            }
        }
        if self.u32.0 as i32 <= self.u32.1 as i32 {
            meet(&mut self.s32, self.u32.0 as i32, self.u32.1 as i32);
        }
        if self.s32.0 as u32 <= self.s32.1 as u32 {
            meet(&mut self.u32, self.s32.0 as u32, self.s32.1 as u32);
        } else if self.u32.1 < self.s32.0 as u32 {
            self.u32.1 = self.u32.1.min(self.s32.1 as u32);
            self.s32.0 = self.s32.0.max(0);
        } else if self.u32.0 > self.s32.1 as u32 {
            self.u32.0 = self.u32.0.max(self.s32.0 as u32);
            self.s32.1 = self.s32.1.min(-1);
        }
    }

    fn between_widths(&mut self) {
        // Numbers with one upper half: their lower halves are a range.
        if self.u.0 & UPPER == self.u.1 & UPPER {
            meet(&mut self.u32, self.u.0 as u32, self.u.1 as u32);
        }
        let (lo, hi) = (self.s.0 as u64, self.s.1 as u64);
        if lo & UPPER == hi & UPPER {
            meet(&mut self.u32, lo as u32, hi as u32);
        }
        // A range within i32 is its own lower half, read as signed.
        if i64::from(i32::MIN) <= self.s.0 && self.s.1 <= i64::from(i32::MAX) {
            meet(&mut self.s32, self.s.0 as i32, self.s.1 as i32);
        }
        // At the least upper half the lower half is at least its own minimum, and so at the greatest.
        let (lo, hi) = (u64::from(self.u32.0), u64::from(self.u32.1));
        let (least, most) = (self.u.0 & UPPER | lo, self.u.1 & UPPER | hi);
        meet(&mut self.u, least, most);
        let (least, most) = (self.s.0 as u64 & UPPER | lo, self.s.1 as u64 & UPPER | hi);
        meet(&mut self.s, least as i64, most as i64);
    }

    /// Sum.
    pub fn add(&self, b: &Scalar) -> Scalar {
        Scalar {
            bits: self.bits.add(b.bits),
            u: self
                .u
                .0
                .checked_add(b.u.0)
                .zip(self.u.1.checked_add(b.u.1))
                .unwrap_or(U),
            s: self
                .s
                .0
                .checked_add(b.s.0)
                .zip(self.s.1.checked_add(b.s.1))
                .unwrap_or(S),
            u32: self
                .u32
                .0
                .checked_add(b.u32.0)
                .zip(self.u32.1.checked_add(b.u32.1))
                .unwrap_or(U32),
            s32: self
                .s32
                .0
                .checked_add(b.s32.0)
                .zip(self.s32.1.checked_add(b.s32.1))
                .unwrap_or(S32),
        }
        .tidied()
    }

    /// Difference.
    pub fn sub(&self, b: &Scalar) -> Scalar {
        Scalar {
            bits: self.bits.sub(b.bits),
            u: self
                .u
                .0
                .checked_sub(b.u.1)
                .zip(self.u.1.checked_sub(b.u.0))
                .unwrap_or(U),
            s: self
                .s
                .0
                .checked_sub(b.s.1)
                .zip(self.s.1.checked_sub(b.s.0))
                .unwrap_or(S),
            u32: self
                .u32
                .0
                .checked_sub(b.u32.1)
                .zip(self.u32.1.checked_sub(b.u32.0))
                .unwrap_or(U32),
            s32: self
                .s32
                .0
                .checked_sub(b.s32.1)
                .zip(self.s32.1.checked_sub(b.s32.0))
                .unwrap_or(S32),
        }
        .tidied()
    }

    /// Product.
    pub fn mul(&self, b: &Scalar) -> Scalar {
        let corners = |a: (i128, i128), b: (i128, i128)| {
            let all = [a.0 * b.0, a.0 * b.1, a.1 * b.0, a.1 * b.1];
            all.iter()
                .fold((all[0], all[0]), |(lo, hi), x| (lo.min(*x), hi.max(*x)))
        };
        let wide = |r: (i64, i64)| (i128::from(r.0), i128::from(r.1));
        let (slo, shi) = corners(wide(self.s), wide(b.s));
        let (s32lo, s32hi) = corners(
            (self.s32.0.into(), self.s32.1.into()),
            (b.s32.0.into(), b.s32.1.into()),
        );
        Scalar {
            bits: self.bits.mul(b.bits),
            u: self.u.1.checked_mul(b.u.1).map_or(U, |hi| (self.u.0 * b.u.0, hi)),
            s: i64::try_from(slo).ok().zip(i64::try_from(shi).ok()).unwrap_or(S),
            u32: self
                .u32
                .1
                .checked_mul(b.u32.1)
                .map_or(U32, |hi| (self.u32.0 * b.u32.0, hi)),
            s32: i32::try_from(s32lo)
                .ok()
                .zip(i32::try_from(s32hi).ok())
                .unwrap_or(S32),
        }
        .tidied()
    }

    fn from_tnum(bits: Tnum) -> Scalar {
        Scalar {
            bits,
            ..Scalar::UNKNOWN
        }
    }

    pub fn and(&self, b: &Scalar) -> Scalar {
        let mut out = Scalar::from_tnum(self.bits.and(b.bits));
        out.u.1 = self.u.1.min(b.u.1);
        out.u32.1 = self.u32.1.min(b.u32.1);
        out.tidied()
    }

    pub fn or(&self, b: &Scalar) -> Scalar {
        let mut out = Scalar::from_tnum(self.bits.or(b.bits));
        out.u.0 = self.u.0.max(b.u.0);
        out.u32.0 = self.u32.0.max(b.u32.0);
        out.tidied()
    }

    pub fn xor(&self, b: &Scalar) -> Scalar {
        Scalar::from_tnum(self.bits.xor(b.bits)).tidied()
    }

    /// Left shift by what `by` says, which engines take modulo `width` (32 or 64).
    pub fn shl(&self, by: &Scalar, width: u32) -> Scalar {
        let Some((least, most)) = shift(by, width) else {
            return Scalar::UNKNOWN;
        };
        let mut out = Scalar::UNKNOWN;
        if least == most {
            out.bits = self.bits.shl(least);
        } else {
            let zeros = self.bits.max().trailing_zeros().saturating_add(least).min(63);
            out.bits = Tnum {
                value: 0,
                mask: u64::MAX << zeros,
            };
        }
        if self.u.1.leading_zeros() >= most {
            out.u = (self.u.0 << least, self.u.1 << most);
        }
        if most < 32 && self.u32.1.leading_zeros() >= most {
            out.u32 = (self.u32.0 << least, self.u32.1 << most);
        }
        if least == most {
            let (lo, hi) = (i128::from(self.s.0) << least, i128::from(self.s.1) << least);
            if let (Ok(lo), Ok(hi)) = (i64::try_from(lo), i64::try_from(hi)) {
                out.s = (lo, hi);
            }
        }
        out.tidied()
    }

    /// Unsigned right shift. A 32-bit shift takes a zero-extended operand.
    pub fn shr(&self, by: &Scalar, width: u32) -> Scalar {
        let Some((least, most)) = shift(by, width) else {
            return Scalar::range(0, self.u.1);
        };
        let mut out = Scalar::UNKNOWN;
        if least == most {
            out.bits = self.bits.shr(least);
        }
        out.u = (self.u.0 >> most, self.u.1 >> least);
        out.tidied()
    }

    /// Signed right shift. A 32-bit shift takes a sign-extended operand.
    pub fn ashr(&self, by: &Scalar, width: u32) -> Scalar {
        let (least, most) = shift(by, width).unwrap_or((0, width - 1));
        let mut out = Scalar::UNKNOWN;
        if least == most {
            out.bits = self.bits.ashr(least);
        }
        let all = [
            self.s.0 >> least,
            self.s.0 >> most,
            self.s.1 >> least,
            self.s.1 >> most,
        ];
        out.s = all
            .iter()
            .fold((all[0], all[0]), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        out.tidied()
    }

    /// Unsigned quotient; by zero it is 0.
    pub fn div(&self, b: &Scalar) -> Scalar {
        if b.u.1 == 0 {
            return Scalar::constant(0);
        }
        let lo = if b.u.0 == 0 { 0 } else { self.u.0 / b.u.1 };
        Scalar::range(lo, self.u.1 / b.u.0.max(1))
    }

    /// Unsigned remainder; by zero it is the dividend.
    pub fn rem(&self, b: &Scalar) -> Scalar {
        if b.u.1 == 0 || (b.u.0 > self.u.1) {
            return *self;
        }
        let hi = if b.u.0 == 0 {
            self.u.1
        } else {
            self.u.1.min(b.u.1 - 1)
        };
        Scalar::range(0, hi)
    }

    /// The low half, zero-extended.
    pub fn zext(&self) -> Scalar {
        Scalar {
            bits: self.bits.low(),
            u: (self.u32.0.into(), self.u32.1.into()),
            s: S,
            u32: self.u32,
            s32: self.s32,
        }
        .tidied()
    }

    /// The low `width` bits (8, 16, 32), sign-extended to 64.
    pub fn sext(&self, width: u32) -> Scalar {
        let extend = |x: u64| ((x << (64 - width)) as i64) >> (64 - width);
        let (lo, hi) = (-1i64 << (width - 1), (1i64 << (width - 1)) - 1);
        let up = 64 - width;
        let mut out = Scalar::from_tnum(self.bits.shl(up).ashr(up));
        out.s = (lo, hi);
        if self.s.0 >= lo && self.s.1 <= hi {
            return *self;
        }
        if width == 32 {
            out.s = (self.s32.0.into(), self.s32.1.into());
            out.s32 = self.s32;
            out.u32 = self.u32;
        } else if self.u.1 < 1 << width && extend(self.u.0) <= extend(self.u.1) {
            out.s = (extend(self.u.0), extend(self.u.1));
        }
        out.tidied()
    }

    /// The low `bytes` bytes, zero-extended.
    pub fn truncate(&self, bytes: u32) -> Scalar {
        match bytes {
            8.. => *self,
            4 => self.zext(),
            n => self.and(&Scalar::constant((1 << (8 * n)) - 1)),
        }
    }
}

/// Bounds of a shift distance; `None` when it can be `width` or more.
fn shift(by: &Scalar, width: u32) -> Option<(u32, u32)> {
    let (lo, hi) = if width == 32 {
        (by.u32.0, by.u32.1)
    } else {
        (by.u.0.min(64) as u32, by.u.1.min(64) as u32)
    };
    (hi < width).then_some((lo, hi))
}
