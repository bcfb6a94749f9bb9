//! The way through a function: its blocks, its jumps, and what is known at each point on the way.

use std::collections::{HashMap, HashSet};

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};

use super::function::Translator;
use super::known::Known;
use super::loops::{self, Counted};
use super::state::offset;
use super::track::jump_target;
use crate::Fault;
use crate::insn::{self, Insn};
use crate::interp::MAY_GOTO_MAX;
use crate::mem::space::FRAME;

/// What holds along a stretch of code that is entered at its top only.
#[derive(Default)]
pub(super) struct Stretch {
    pub known: Known,
    /// `data`, `data_end` and `data_meta`, where they are at hand.
    pub edges: [Option<Value>; 3],
    /// What was put into registers.
    set: [Option<Value>; 10],
}

/// Where control goes within a function.
#[derive(Default)]
pub(super) struct Flow {
    blocks: HashMap<usize, Block>,
    /// How many ways lead to each block.
    ways: HashMap<usize, usize>,
    /// Those that something behind them jumps to.
    back: HashSet<usize>,
    /// What held where a block's only way to it branched off.
    held: HashMap<usize, (Known, [Option<Value>; 3])>,
    /// Addresses that are null unless a condition holds, which is simpler than comparing them: the condition, and the address
    /// then.
    pub nullable: HashMap<Value, (Value, Value)>,
}

impl Translator<'_, '_> {
    /// Notes what a register holds from here on.
    pub fn note_set(&mut self, n: u8, value: Value) {
        if let Some(known) = self.here.set.get_mut(usize::from(n)) {
            *known = Some(value);
        }
    }

    /// The function's instructions, from the current block on.
    pub fn body(&mut self) {
        let (start, end) = self.env.body.functions[self.f];
        let zeroed = i32::from(self.env.facts.zeroed(self.f)).min(FRAME as i32);
        for at in (1..=zeroed / 8).rev() {
            let (zero, fp, stack) = (self.c(0), self.fp, self.regions.stack);
            self.b.ins().store(stack, zero, fp, -8 * at);
        }
        self.find_blocks(start, end);
        let loops = match self.env.budget {
            // Turns are counted as they are made.
            true => Vec::new(),
            false => loops::counted(self.env.body, start, end),
        };
        let mut open = true;
        let mut at = start;
        while at < end {
            let counted = loops.iter().find(|l| open && l.head == at);
            if let Some((last, on)) = counted.and_then(|l| self.laid_out(l)) {
                (at, open) = (last + 1, on);
                continue;
            }
            open = self.arrive(at, open) && self.instruction(self.env.body.insns[at], at);
            at = self.after(at);
        }
    }

    fn after(&self, at: usize) -> usize {
        at + if self.env.body.insns[at].is_wide() { 2 } else { 1 }
    }

    fn find_blocks(&mut self, start: usize, end: usize) {
        let mut at = start;
        let mut falls = true;
        let mut targets = Vec::new();
        let mut over = Vec::new();
        while at < end {
            let insn = self.env.body.insns[at];
            if falls {
                *self.flow.ways.entry(at).or_default() += 1;
            }
            falls = !matches!(insn.code, insn::JA | insn::JA32 | insn::EXIT);
            if jump_target(insn, at).is_some() {
                targets.push((at, self.landing(insn, at)));
                over.extend(self.jumped_over(at).map(|landing| (at + 1, landing)));
            }
            at = self.after(at);
        }
        for (at, target) in targets {
            if target <= at {
                self.flow.back.insert(target);
            }
            *self.flow.ways.entry(target).or_default() += 1;
            self.block(target);
        }
        for (at, landing) in over {
            // That jump is there twice if others lead to it as well.
            if self.flow.blocks.contains_key(&at) {
                *self.flow.ways.entry(landing).or_default() += 1;
            }
            if landing < at {
                self.flow.back.insert(landing);
            }
            self.block(landing);
        }
    }

    /// Where a jump leads in the end.
    fn landing(&self, insn: Insn, at: usize) -> usize {
        let insns = &self.env.body.insns;
        let mut target = jump_target(insn, at).unwrap_or(at);
        for _ in 0..8 {
            let next = insns
                .get(target)
                .filter(|i| matches!(i.code, insn::JA | insn::JA32));
            match next.and_then(|insn| jump_target(*insn, target)) {
                // Each jump backwards takes from the budget.
                Some(further) if !self.env.budget => target = further,
                _ => break,
            }
        }
        target
    }

    /// Where the jump leads that a conditional jump jumps over.
    fn jumped_over(&self, at: usize) -> Option<usize> {
        let conditional = !matches!(self.env.body.insns[at].code, insn::JA | insn::JA32);
        let (_, end) = self.env.body.functions[self.f];
        let next = self.env.body.insns.get(at + 1).filter(|_| at + 1 < end)?;
        let jumps = matches!(next.code, insn::JA | insn::JA32);
        (jumps && conditional && !self.env.budget).then(|| self.landing(*next, at + 1))
    }

    fn block(&mut self, at: usize) -> Block {
        match self.flow.blocks.get(&at) {
            Some(block) => *block,
            None => {
                let block = self.b.create_block();
                self.flow.blocks.insert(at, block);
                block
            }
        }
    }

    /// Begins the block at an instruction, if one begins there; tells whether anything leads here.
    fn arrive(&mut self, at: usize, open: bool) -> bool {
        let Some(block) = self.flow.blocks.get(&at).copied() else {
            return open;
        };
        if open {
            self.flush();
            self.b.ins().jump(block, &[]);
        }
        self.b.switch_to_block(block);
        if !self.flow.back.contains(&at) {
            self.b.seal_block(block);
        }
        self.forget_all();
        if let Some((known, edges)) = self.flow.held.remove(&at) {
            (self.here.known, self.here.edges) = (known, edges);
        }
        true
    }

    /// Nothing is known any more.
    pub fn forget_all(&mut self) {
        self.here = Stretch::default();
        self.bytes.forget_loads();
    }

    /// A branch to an instruction leaves here.
    fn branches_to(&mut self, at: usize, from: usize) {
        if at > from && self.flow.ways.get(&at) == Some(&1) {
            let held = (self.here.known.clone(), self.here.edges);
            self.flow.held.insert(at, held);
        }
        self.bytes.forget_loads();
    }

    /// A loop turn after turn; its last instruction, and whether control goes on behind it.
    fn laid_out(&mut self, counted: &Counted) -> Option<(usize, bool)> {
        let start = self.reg(counted.counter);
        let turns = counted.turns(self.env.body, self.constant_of(start)?)?;
        let (head, last) = (counted.head, counted.last);
        self.flow.blocks.remove(&head);
        let mut inner = Vec::new();
        for at in head..=last {
            if self.flow.blocks.contains_key(&at) {
                inner.push(at);
            }
            let insn = self.env.body.insns[at];
            if jump_target(insn, at).is_some() {
                // Each turn leads there, so what one of them knows does not hold.
                let targets = [Some(self.landing(insn, at)), self.jumped_over(at)];
                for target in targets
                    .into_iter()
                    .flatten()
                    .filter(|t| !(head..=last).contains(t))
                {
                    *self.flow.ways.entry(target).or_default() += 2;
                }
            }
        }
        let mut open = true;
        for (turn, counter) in turns.iter().enumerate() {
            for at in &inner {
                let block = self.b.create_block();
                self.flow.blocks.insert(*at, block);
            }
            let mut at = head;
            while at <= last {
                open = self.arrive(at, open);
                if at == counted.test {
                    break;
                }
                if open && at == counted.step {
                    let value = self.c(*counter);
                    self.set(counted.counter, value);
                } else if open {
                    open = self.instruction(self.env.body.insns[at], at);
                }
                at = self.after(at);
            }
            if !open {
                return Some((last, false));
            }
            if turn + 1 == turns.len() && counted.test != last {
                self.goto(self.env.body.insns[counted.test], counted.test);
                return Some((last, false));
            }
        }
        Some((last, open))
    }

    /// Translates one instruction; tells whether control goes on to the next.
    fn instruction(&mut self, insn: Insn, at: usize) -> bool {
        match insn.class() {
            insn::ALU | insn::ALU64 => self.alu(insn),
            insn::LD => self.wide(insn, at),
            insn::LDX => self.load(insn, at),
            insn::ST | insn::STX => self.store(insn, at),
            _ => {
                self.flush();
                return self.jump(insn, at);
            }
        }
        true
    }

    fn jump(&mut self, insn: Insn, at: usize) -> bool {
        match insn.code {
            insn::EXIT => {
                let r0 = self.reg(0);
                self.b.ins().jump(self.exit, &[BlockArg::Value(r0)]);
                false
            }
            insn::CALL if insn.src == insn::CALL_LOCAL => {
                self.local(insn, at);
                true
            }
            insn::CALL => {
                self.call(insn, at);
                true
            }
            insn::JA | insn::JA32 => {
                self.goto(insn, at);
                false
            }
            insn::JCOND => {
                let state = self.state;
                let gotos = self.load_vm(types::I64, state, offset::GOTOS);
                let one = self.c(1);
                let gotos = self.b.ins().iadd(gotos, one);
                self.store_vm(gotos, state, offset::GOTOS);
                let most = self.c(MAY_GOTO_MAX.into());
                let over = self.b.ins().icmp(IntCC::UnsignedGreaterThan, gotos, most);
                self.jump_if(over, insn, at)
            }
            _ => match self.decided(insn, at) {
                Some(true) => {
                    self.goto(insn, at);
                    false
                }
                Some(false) => true,
                None => match self.nullable(insn) {
                    Some((there, address)) => self.jump_if_null(there, address, insn, at),
                    None => {
                        let condition = self.condition(insn);
                        self.jump_if(condition, insn, at)
                    }
                },
            },
        }
    }

    fn goto(&mut self, insn: Insn, at: usize) {
        self.flush();
        let target = self.edge(insn, at);
        self.b.ins().jump(target, &[]);
        self.charge(insn, at, target);
    }

    fn is_null_test(insn: Insn) -> bool {
        insn.class() == insn::JMP && insn.code & 0x08 == 0 && insn.imm == 0
    }

    /// Whether a conditional jump is taken, where that is known: the verifier saw one way only, or an address is compared
    /// with null that cannot be null.
    fn decided(&mut self, insn: Insn, at: usize) -> Option<bool> {
        match self.env.facts.branch(at) {
            (true, false) => return Some(true),
            (false, true) => return Some(false),
            _ => {}
        }
        if !Self::is_null_test(insn) {
            return None;
        }
        let value = self.reg(insn.dst);
        let present = self.present.contains(&value);
        match insn.code & 0xf0 {
            0x10 if present => Some(false),
            0x50 if present => Some(true),
            _ => None,
        }
    }

    /// The condition and the address, where an address is compared with null that is null unless the condition holds.
    fn nullable(&mut self, insn: Insn) -> Option<(Value, Value)> {
        if !Self::is_null_test(insn) || !matches!(insn.code & 0xf0, 0x10 | 0x50) {
            return None;
        }
        let value = self.reg(insn.dst);
        self.flow.nullable.get(&value).copied()
    }

    /// Jumps; where the address is not null, registers that hold it need no condition any more.
    fn jump_if_null(&mut self, there: Value, address: Value, insn: Insn, at: usize) -> bool {
        let nullable = self.reg(insn.dst);
        let on = self.b.create_block();
        let target = self.edge(insn, at);
        if insn.code & 0xf0 == 0x10 {
            self.b.ins().brif(there, on, &[], target, &[]);
            self.charge(insn, at, target);
            self.begin(on);
            self.replace(nullable, address);
            return true;
        }
        let edge = self.b.create_block();
        self.b.ins().brif(there, edge, &[], on, &[]);
        self.begin(edge);
        let before = self.here.set;
        self.replace(nullable, address);
        self.b.ins().jump(target, &[]);
        self.here.set = before;
        self.charge(insn, at, target);
        self.begin(on);
        true
    }

    fn replace(&mut self, old: Value, new: Value) {
        for n in 0..10 {
            if self.here.set[usize::from(n)] == Some(old) {
                self.set(n, new);
            }
        }
    }

    /// Tells whether control goes on to the next instruction.
    fn jump_if(&mut self, condition: Value, insn: Insn, at: usize) -> bool {
        let target = self.edge(insn, at);
        if let Some(over) = self.jumped_over(at) {
            self.branches_to(over, at);
            let over = self.block(over);
            self.b.ins().brif(condition, target, &[], over, &[]);
            return false;
        }
        let on = self.b.create_block();
        self.b.ins().brif(condition, target, &[], on, &[]);
        self.charge(insn, at, target);
        self.begin(on);
        true
    }

    /// The block to jump to: the target's, or for a jump backwards one that takes from the budget first.
    fn edge(&mut self, insn: Insn, at: usize) -> Block {
        let target = self.landing(insn, at);
        self.branches_to(target, at);
        if target <= at && self.env.budget {
            self.b.create_block()
        } else {
            self.block(target)
        }
    }

    /// Fills the block that [`Self::edge`] made for a jump backwards.
    fn charge(&mut self, insn: Insn, at: usize, edge: Block) {
        let target = self.landing(insn, at);
        if target <= at && self.env.budget {
            let to = self.block(target);
            self.begin(edge);
            self.take((at - target) as i64 + 1, at);
            self.b.ins().jump(to, &[]);
        }
    }

    /// Takes from the budget; ends the run at `at` when it is used up.
    pub fn take(&mut self, instructions: i64, at: usize) {
        let state = self.state;
        let left = self.load_vm(types::I64, state, offset::LEFT);
        let cost = self.c(instructions);
        let left = self.b.ins().isub(left, cost);
        self.store_vm(left, state, offset::LEFT);
        let zero = self.c(0);
        let over = self.b.ins().icmp(IntCC::SignedLessThan, left, zero);
        self.fault_if(over, Fault::Budget, at);
    }
}
