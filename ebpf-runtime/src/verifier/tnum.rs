//! Tristate numbers: 64-bit words of which some bits are known (Vishwanathan et al., "Sound, Precise, and Fast Abstract
//! Interpretation with Tristate Numbers", CGO 2022).

/// The words that agree with `value` wherever `mask` is 0. `value & mask == 0` always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tnum {
    pub value: u64,
    pub mask: u64,
}

impl Tnum {
    /// Every word.
    pub const UNKNOWN: Tnum = Tnum {
        value: 0,
        mask: u64::MAX,
    };

    /// One word.
    pub fn constant(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }

    /// The smallest tristate number around `lo..=hi`: the bits above the highest in which they differ are known.
    pub fn range(lo: u64, hi: u64) -> Tnum {
        let differ = lo ^ hi;
        let mask = match differ {
            0 => 0,
            _ => u64::MAX >> differ.leading_zeros(),
        };
        Tnum {
            value: lo & !mask,
            mask,
        }
    }

    /// Its only word, if there is just one.
    pub fn known(self) -> Option<u64> {
        (self.mask == 0).then_some(self.value)
    }

    /// Largest word.
    pub fn max(self) -> u64 {
        self.value | self.mask
    }

    /// Whether the word is one of these.
    pub fn contains(self, word: u64) -> bool {
        word & !self.mask == self.value
    }

    /// Whether every word of `other` is one of these.
    pub fn covers(self, other: Tnum) -> bool {
        other.mask & !self.mask == 0 && self.contains(other.value)
    }

    /// Words in both; `None` when there is none.
    pub fn meet(self, other: Tnum) -> Option<Tnum> {
        let known = !self.mask & !other.mask;
        if (self.value ^ other.value) & known != 0 {
            return None;
        }
        let mask = self.mask & other.mask;
        Some(Tnum {
            value: (self.value | other.value) & !mask,
            mask,
        })
    }

    /// Sums: a bit is known where the least and the greatest sum have had the same carries.
    pub fn add(self, other: Tnum) -> Tnum {
        let least = self.value.wrapping_add(other.value);
        let carries = least ^ least.wrapping_add(self.mask.wrapping_add(other.mask));
        let mask = carries | self.mask | other.mask;
        Tnum {
            value: least & !mask,
            mask,
        }
    }

    /// Differences: likewise with borrows.
    pub fn sub(self, other: Tnum) -> Tnum {
        let middle = self.value.wrapping_sub(other.value);
        let (high, low) = (middle.wrapping_add(self.mask), middle.wrapping_sub(other.mask));
        let mask = (high ^ low) | self.mask | other.mask;
        Tnum {
            value: middle & !mask,
            mask,
        }
    }

    /// Products, by long multiplication: an unknown bit adds either nothing or the other factor.
    pub fn mul(self, other: Tnum) -> Tnum {
        let mut sum = Tnum::constant(self.value.wrapping_mul(other.value));
        let mut rest = self.value | self.mask;
        let all = other.value | other.mask;
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            let uncertain = if self.mask & bit != 0 { all } else { other.mask };
            sum = sum.add(Tnum {
                value: 0,
                mask: uncertain.wrapping_mul(bit),
            });
            rest &= rest - 1;
        }
        sum
    }

    pub fn and(self, other: Tnum) -> Tnum {
        let value = self.value & other.value;
        Tnum {
            value,
            mask: self.max() & other.max() & !value,
        }
    }

    pub fn or(self, other: Tnum) -> Tnum {
        let value = self.value | other.value;
        Tnum {
            value,
            mask: (self.mask | other.mask) & !value,
        }
    }

    pub fn xor(self, other: Tnum) -> Tnum {
        let mask = self.mask | other.mask;
        Tnum {
            value: (self.value ^ other.value) & !mask,
            mask,
        }
    }

    /// Shift by `n` below 64.
    pub fn shl(self, n: u32) -> Tnum {
        Tnum {
            value: self.value << n,
            mask: self.mask << n,
        }
    }

    /// Unsigned shift by `n` below 64.
    pub fn shr(self, n: u32) -> Tnum {
        Tnum {
            value: self.value >> n,
            mask: self.mask >> n,
        }
    }

    /// Signed shift by `n` below 64.
    pub fn ashr(self, n: u32) -> Tnum {
        Tnum {
            value: ((self.value as i64) >> n) as u64,
            mask: ((self.mask as i64) >> n) as u64,
        }
        .tidy()
    }

    fn tidy(self) -> Tnum {
        Tnum {
            value: self.value & !self.mask,
            mask: self.mask,
        }
    }

    /// The low 32 bits, the upper half zero.
    pub fn low(self) -> Tnum {
        Tnum {
            value: self.value & 0xffff_ffff,
            mask: self.mask & 0xffff_ffff,
        }
    }

    /// This upper half with that lower half.
    pub fn with_low(self, low: Tnum) -> Tnum {
        let upper = !0xffff_ffff;
        Tnum {
            value: self.value & upper | low.value & !upper,
            mask: self.mask & upper | low.mask & !upper,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tristate number and a word in it.
    fn pair() -> impl Strategy<Value = (Tnum, u64)> {
        let word = prop_oneof![any::<u64>(), 0..300u64, (0..64u32).prop_map(|n| 1 << n)];
        (word.clone(), word, any::<u64>()).prop_map(|(word, mask, noise)| {
            let value = word & !mask;
            (Tnum { value, mask }, value | noise & mask)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn results_of_members_are_members_of_results((a, x) in pair(), (b, y) in pair(), n in 0..64u32) {
            prop_assert!(a.add(b).contains(x.wrapping_add(y)));
            prop_assert!(a.sub(b).contains(x.wrapping_sub(y)));
            prop_assert!(a.mul(b).contains(x.wrapping_mul(y)));
            prop_assert!(a.and(b).contains(x & y));
            prop_assert!(a.or(b).contains(x | y));
            prop_assert!(a.xor(b).contains(x ^ y));
            prop_assert!(a.shl(n).contains(x << n));
            prop_assert!(a.shr(n).contains(x >> n));
            prop_assert!(a.ashr(n).contains(((x as i64) >> n) as u64));
            prop_assert!(a.low().contains(u64::from(x as u32)));
            prop_assert!(a.with_low(b).contains(x >> 32 << 32 | y & 0xffff_ffff));
            for t in [a.add(b), a.sub(b), a.mul(b), a.and(b), a.or(b), a.xor(b), a.ashr(n)] {
                prop_assert_eq!(t.value & t.mask, 0);
            }
        }

        #[test]
        fn a_range_lies_in_its_tristate_number(lo in any::<u64>(), len in any::<u64>(), at in any::<u64>()) {
            let hi = lo.saturating_add(len >> (at % 64));
            let word = lo + at % (hi - lo).saturating_add(1).max(1);
            prop_assert!(Tnum::range(lo, hi).contains(word));
            prop_assert!(Tnum::range(lo, hi).covers(Tnum::constant(word)));
        }

        #[test]
        fn a_common_member_survives_the_meet((a, x) in pair(), mask in any::<u64>()) {
            let b = Tnum { value: x & !mask, mask };
            let both = a.meet(b);
            prop_assert!(both.is_some_and(|t| t.contains(x) && a.covers(t) && b.covers(t)));
        }
    }

    #[test]
    fn contradicting_bits_have_no_meet() {
        assert_eq!(Tnum::constant(4).meet(Tnum { value: 0, mask: 3 }), None);
    }
}
