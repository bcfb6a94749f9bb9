//! Context accesses of steering programs: `struct __sk_buff` instead of `struct xdp_md`.

use super::explore::Verifier;
use super::facts::{CtxField, Fact};
use super::problem::{Problem, refuse};
use super::scalar::Scalar;
use super::state::{Kind, Reg, State};
use crate::hook::{SkbField, skb_field};
use crate::insn::Insn;

impl Verifier<'_> {
    /// A load from the context. Numbers lie in memory that the engines' own check finds.
    pub(super) fn load_skb(
        &mut self,
        state: &mut State,
        insn: Insn,
        base: &Reg,
        size: u32,
        sign: bool,
    ) -> Result<Fact, Problem> {
        let off = i64::from(insn.off) + i64::from(base.off);
        let field = skb_field(off, size).filter(|_| !sign && base.value.known() == Some(0));
        let (reg, fact) = match field {
            Some(SkbField::Data) => (Reg::pointer(Kind::Packet), Fact::Ctx(CtxField::Data)),
            Some(SkbField::DataEnd) => (Reg::pointer(Kind::PacketEnd), Fact::Ctx(CtxField::DataEnd)),
            Some(SkbField::DataMeta) => (Reg::pointer(Kind::Meta), Fact::Ctx(CtxField::DataMeta)),
            Some(SkbField::Number { .. }) => (self.loaded(Scalar::of_bytes(size)), Fact::Plain),
            None => {
                return refuse(
                    format!("reads {size} bytes at offset {off} of the context, which is no field"),
                    "read a field of struct __sk_buff whole, or a part of one: len, queue_mapping, protocol, ingress_ifindex, ifindex, cb, hash, data, data_end and the like",
                );
            }
        };
        state.set(insn.dst, reg);
        Ok(fact)
    }

    /// A store into the context, of which a few fields are the program's to use.
    pub(super) fn store_skb(
        &mut self,
        insn: Insn,
        base: &Reg,
        size: u32,
        value: &Reg,
    ) -> Result<Fact, Problem> {
        let off = i64::from(insn.off) + i64::from(base.off);
        if value.is_pointer() {
            return refuse(
                format!(
                    "writes r{}, {}, into the context",
                    insn.src,
                    value.kind.describe()
                ),
                "pointers may only be stored on the stack",
            );
        }
        match skb_field(off, size).filter(|_| base.value.known() == Some(0)) {
            Some(SkbField::Number { writable: true }) => Ok(Fact::Plain),
            _ => refuse(
                format!("writes {size} bytes at offset {off} of the context, where it may not"),
                "write only cb, mark, queue_mapping, priority, tc_index and tc_classid, each as a whole",
            ),
        }
    }
}
