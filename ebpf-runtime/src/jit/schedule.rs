//! The order of instructions, once cranelift's optimiser is through.
//!
//! The optimiser computes each number right before it is used first, but leaves loads where they were. Many loads in a row, as
//! of an unrolled loop, would hold a register each until the end; here each goes to its first use, also where
//! that is in a block further on, as long as there is only one way from here to there and back.

use std::collections::{BTreeMap, HashMap, HashSet};

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::flowgraph::ControlFlowGraph;
use cranelift_codegen::ir::{Block, Function, Inst, InstBuilder, InstructionData, Opcode, Value, types};

use super::prune::is_load;

/// How often a large constant is a factor in a run of blocks before it is worth a register.
const OFTEN: usize = 4;

/// Orders the instructions of each run of blocks.
pub(super) fn schedule(func: &mut Function) {
    for run in runs(func) {
        let insts: Vec<Inst> = run
            .iter()
            .flat_map(|block| func.layout.block_insts(*block))
            .collect();
        sink_loads(func, &insts);
        keep_factors(func, &insts);
    }
}

/// Blocks one after the other: each but the first is reached from the one before only, which goes nowhere else.
fn runs(func: &Function) -> Vec<Vec<Block>> {
    let cfg = ControlFlowGraph::with_function(func);
    let follower = |block: Block| {
        let mut after = cfg.succ_iter(block);
        let next = after.next().filter(|_| after.next().is_none())?;
        let jump = func.layout.last_inst(block)?;
        let only = func.dfg.insts[jump].opcode() == Opcode::Jump && cfg.pred_iter(next).count() == 1;
        (only && Some(next) != func.layout.entry_block()).then_some(next)
    };
    let followers: HashSet<Block> = func.layout.blocks().filter_map(follower).collect();
    let first = func.layout.blocks().filter(|block| !followers.contains(block));
    first
        .map(|block| std::iter::successors(Some(block), |block| follower(*block)).collect())
        .collect()
}

/// What no load may be moved across: whatever writes memory, and loads that others order by.
fn is_barrier(op: Opcode) -> bool {
    let orders = matches!(
        op,
        Opcode::AtomicLoad | Opcode::AtomicRmw | Opcode::AtomicCas | Opcode::Fence
    );
    orders || op.can_store() || op.is_call() || op.other_side_effects()
}

fn sink_loads(func: &mut Function, insts: &[Inst]) {
    let mut first_use: HashMap<Value, usize> = HashMap::new();
    let mut barrier = insts.len();
    let mut moves = Vec::new();
    // Upwards, so that a load whose address was loaded takes the other along.
    for (i, inst) in insts.iter().enumerate().rev() {
        let op = func.dfg.insts[*inst].opcode();
        if is_load(op)
            && let Some(user) = first_use.get(&func.dfg.first_result(*inst))
            && (i + 2..=barrier).contains(user)
        {
            moves.push((*inst, insts[*user]));
        }
        if is_barrier(op) {
            barrier = i;
        }
        for value in func.dfg.inst_values(*inst) {
            first_use.insert(func.dfg.resolve_aliases(value), i);
        }
    }
    for (inst, before) in moves {
        func.layout.remove_inst(inst);
        func.layout.insert_inst(inst, before);
    }
}

/// Factors that no instruction can hold are read from memory each time; those used often get a register instead, by way of
/// an operation that is not computed at compile time any more.
fn keep_factors(func: &mut Function, insts: &[Inst]) {
    // In the order of the factors, so that a program always becomes the same code.
    let mut uses: BTreeMap<i64, Vec<(Inst, usize)>> = BTreeMap::new();
    for inst in insts {
        if func.dfg.insts[*inst].opcode() != Opcode::Imul {
            continue;
        }
        for (i, value) in func.dfg.inst_args(*inst).iter().enumerate() {
            if let Some(factor) = large(func, *value) {
                uses.entry(factor).or_default().push((*inst, i));
            }
        }
    }
    for (factor, uses) in uses.into_iter().filter(|(_, uses)| uses.len() >= OFTEN) {
        let mut cursor = FuncCursor::new(func).at_inst(uses[0].0);
        let inverse = cursor.ins().iconst(types::I64, !factor);
        let kept = cursor.ins().bnot(inverse);
        for (inst, i) in uses {
            func.dfg.inst_args_mut(inst)[i] = kept;
        }
    }
}

/// A 64-bit constant that does not fit into an instruction.
fn large(func: &Function, value: Value) -> Option<i64> {
    let inst = func.dfg.value_def(func.dfg.resolve_aliases(value)).inst()?;
    match func.dfg.insts[inst] {
        InstructionData::UnaryImm {
            opcode: Opcode::Iconst,
            imm,
        } if func.dfg.value_type(value) == types::I64 => {
            Some(imm.bits()).filter(|factor| i32::try_from(*factor).is_err())
        }
        _ => None,
    }
}
