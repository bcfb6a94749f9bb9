//! Which values the proof depends on.
//!
//! Two states that differ in a number need not be told apart if nothing that was proved afterwards depended on that
//! number. Each value that a register or stack slot holds has a node here; its parents are the values it was computed
//! from. Whatever proves something from a value's range marks its node, and with it all that it came from. Likewise each
//! content of a stack slot has a node that is marked when it is read.

/// A node; [`NONE`] for values that constrain nothing.
pub(crate) type Dep = u32;

/// The node of numbers about which nothing is known: it is never marked.
pub(crate) const NONE: Dep = 0;

#[derive(Debug, Clone, Copy)]
struct Node {
    parents: [Dep; 2],
    marked: bool,
}

/// All nodes of a verification.
#[derive(Debug)]
pub(crate) struct Deps {
    nodes: Vec<Node>,
    work: Vec<Dep>,
}

impl Deps {
    pub fn new() -> Deps {
        Deps {
            nodes: vec![Node {
                parents: [NONE; 2],
                marked: false,
            }],
            work: Vec::new(),
        }
    }

    /// A value that comes from up to two others.
    pub fn node(&mut self, a: Dep, b: Dep) -> Dep {
        self.nodes.push(Node {
            parents: [a, b],
            marked: false,
        });
        (self.nodes.len() - 1) as Dep
    }

    /// A value that comes from no other.
    pub fn fresh(&mut self) -> Dep {
        self.node(NONE, NONE)
    }

    /// Something depends on this value.
    pub fn mark(&mut self, dep: Dep) {
        self.work.push(dep);
        while let Some(dep) = self.work.pop() {
            let Some(node) = self.nodes.get_mut(dep as usize) else {
                continue;
            };
            if dep == NONE || node.marked {
                continue;
            }
            node.marked = true;
            self.work.extend(node.parents);
        }
    }

    pub fn is_marked(&self, dep: Dep) -> bool {
        self.nodes.get(dep as usize).is_some_and(|n| n.marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marking_a_value_marks_what_it_came_from_and_nothing_else() {
        let mut deps = Deps::new();
        let (a, b, c) = (deps.fresh(), deps.fresh(), deps.fresh());
        let sum = deps.node(a, b);
        let next = deps.node(sum, NONE);
        deps.mark(next);
        assert!([a, b, sum, next].iter().all(|d| deps.is_marked(*d)));
        assert!(!deps.is_marked(c) && !deps.is_marked(NONE));
    }
}
