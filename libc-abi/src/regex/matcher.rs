//! Matching: leftmost, then longest (POSIX), in time proportional to text times pattern.
//!
//! The tree becomes a program for a machine that is in many states at once; it finds where the match
//! starts and ends. Where groups are asked for, one way through the program to that end is walked.
//! Patterns with back references are not regular; they are matched by trying.

use super::parse::{Anchor, Node, NodeId, Rules, Tree};
use alloc::vec::Vec;

/// A text: its characters and the byte offset of each, and of the end.
pub(crate) struct Text {
    pub(crate) chars: Vec<u32>,
    pub(crate) offsets: Vec<usize>,
}

/// Conditions of one search.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) not_bol: bool,
    pub(crate) not_eol: bool,
    pub(crate) newline_anchor: bool,
}

#[derive(Clone, Copy)]
enum Step {
    /// One character that the node matches.
    Consume(NodeId),
    Assert(Anchor),
    /// Here group `.0 / 2` starts (even) or ends (odd).
    Save(usize),
    Split(usize, usize),
    Jump(usize),
}

/// A compiled pattern.
pub(crate) struct Program {
    tree: Tree,
    steps: Vec<Step>,
    rules: Rules,
    /// ASCII characters that a match can start with; `None` if it can be empty or start otherwise.
    first: Option<[bool; 128]>,
}

/// Steps beyond which a pattern counts as too big.
const LIMIT: usize = 1 << 18;

/// Bounds of groups by character index; group 0 is the whole.
pub(crate) type Groups = Vec<Option<(usize, usize)>>;

impl Program {
    pub(crate) fn new(tree: Tree, rules: Rules) -> Option<Program> {
        let mut program = Program { tree, steps: Vec::new(), rules, first: None };
        let root = program.tree.root;
        if !program.tree.back_references {
            program.emit(root)?;
            program.first = program.first_characters();
        }
        Some(program)
    }

    pub(crate) fn groups(&self) -> usize {
        self.tree.groups
    }

    fn emit(&mut self, node: NodeId) -> Option<()> {
        if self.steps.len() > LIMIT {
            return None;
        }
        match self.tree.nodes[node].clone() {
            Node::Empty | Node::BackReference(_) => {}
            Node::Char(_) | Node::Any | Node::Set(_) => self.steps.push(Step::Consume(node)),
            Node::Anchor(kind) => self.steps.push(Step::Assert(kind)),
            Node::Group(number, inner) => {
                self.steps.push(Step::Save(2 * number));
                self.emit(inner)?;
                self.steps.push(Step::Save(2 * number + 1));
            }
            Node::Concat(parts) => {
                for part in parts {
                    self.emit(part)?;
                }
            }
            Node::Alternate(branches) => {
                let mut jumps = Vec::new();
                for (at, &branch) in branches.iter().enumerate() {
                    let split = self.steps.len();
                    if at + 1 < branches.len() {
                        self.steps.push(Step::Split(split + 1, 0));
                    }
                    self.emit(branch)?;
                    if at + 1 < branches.len() {
                        jumps.push(self.steps.len());
                        self.steps.push(Step::Jump(0));
                        self.steps[split] = Step::Split(split + 1, self.steps.len());
                    }
                }
                let end = self.steps.len();
                for jump in jumps {
                    self.steps[jump] = Step::Jump(end);
                }
            }
            Node::Repeat { inner, min, max } => {
                for _ in 0..min {
                    self.emit(inner)?;
                }
                let mut splits = Vec::new();
                match max {
                    None => {
                        let head = self.steps.len();
                        self.steps.push(Step::Split(head + 1, 0));
                        self.emit(inner)?;
                        self.steps.push(Step::Jump(head));
                        splits.push(head);
                    }
                    Some(max) => {
                        for _ in min..max {
                            let head = self.steps.len();
                            self.steps.push(Step::Split(head + 1, 0));
                            splits.push(head);
                            self.emit(inner)?;
                        }
                    }
                }
                let end = self.steps.len();
                for split in splits {
                    self.steps[split] = Step::Split(split + 1, end);
                }
            }
        }
        Some(())
    }

    fn first_characters(&self) -> Option<[bool; 128]> {
        let mut first = [false; 128];
        let mut seen = alloc::vec![false; self.steps.len() + 1];
        let mut stack = alloc::vec![0];
        while let Some(pc) = stack.pop() {
            if seen[pc] {
                continue;
            }
            seen[pc] = true;
            match *self.steps.get(pc)? {
                Step::Jump(to) => stack.push(to),
                Step::Split(a, b) => stack.extend([a, b]),
                // Taken for true: this only says where it is worth to look.
                Step::Assert(_) | Step::Save(_) => stack.push(pc + 1),
                Step::Consume(node) => {
                    for c in 0..128 {
                        first[c as usize] |= self.consumes(node, c);
                    }
                }
            }
        }
        Some(first)
    }

    #[inline]
    fn consumes(&self, node: NodeId, c: u32) -> bool {
        match &self.tree.nodes[node] {
            Node::Char(wanted) => self.rules.same(*wanted, c),
            Node::Any => self.rules.any(c),
            Node::Set(set) => self.rules.set(set, c),
            _ => false,
        }
    }
}

/// A set of states with room for a start position each.
struct States {
    list: Vec<(usize, usize)>,
    mark: Vec<u32>,
    round: u32,
}

impl States {
    fn new(count: usize) -> States {
        States { list: Vec::new(), mark: alloc::vec![0; count + 1], round: 0 }
    }
    fn clear(&mut self) {
        self.list.clear();
        self.round += 1;
    }
    fn enter(&mut self, pc: usize) -> bool {
        let new = self.mark[pc] != self.round;
        self.mark[pc] = self.round;
        new
    }
}

/// A way from one character to the next: the consuming step, and what lies on it.
struct Way {
    step: usize,
    saves: Vec<usize>,
    splits: Vec<usize>,
}

/// One search of one text.
pub(crate) struct Search<'a> {
    pub(crate) program: &'a Program,
    pub(crate) text: &'a Text,
    pub(crate) options: Options,
}

impl Search<'_> {
    fn length(&self) -> usize {
        self.text.chars.len()
    }

    fn holds(&self, anchor: Anchor, at: usize) -> bool {
        let chars = &self.text.chars;
        let newline = |at: usize| self.options.newline_anchor && chars[at] == b'\n' as u32;
        let word = |at: usize| self.program.rules.word(chars[at]);
        let before = at > 0 && word(at - 1);
        let after = at < chars.len() && word(at);
        match anchor {
            Anchor::LineStart => at == 0 && !self.options.not_bol || at > 0 && newline(at - 1),
            Anchor::LineEnd => at == chars.len() && !self.options.not_eol || at < chars.len() && newline(at),
            Anchor::BufferStart => at == 0,
            Anchor::BufferEnd => at == chars.len(),
            Anchor::WordStart => !before && after,
            Anchor::WordEnd => before && !after,
            Anchor::Boundary => before != after,
            Anchor::NotBoundary => before == after,
        }
    }

    /// Adds `pc` and what is reachable without a character; calls `accepted` at `accept`.
    fn reach(&self, states: &mut States, pc: usize, start: usize, at: usize, accept: usize) -> bool {
        let mut hit = false;
        let mut stack = alloc::vec![pc];
        while let Some(pc) = stack.pop() {
            if !states.enter(pc) {
                continue;
            }
            if pc == accept {
                hit = true;
                continue;
            }
            match self.program.steps[pc] {
                Step::Jump(to) => stack.push(to),
                Step::Split(a, b) => stack.extend([b, a]),
                Step::Save(_) => stack.push(pc + 1),
                Step::Assert(anchor) => {
                    if self.holds(anchor, at) {
                        stack.push(pc + 1);
                    }
                }
                Step::Consume(_) => states.list.push((pc, start)),
            }
        }
        hit
    }

    /// The leftmost longest match that starts in `from..=last`.
    pub(crate) fn find(&self, from: usize, last: usize) -> Option<(usize, usize)> {
        let program = self.program;
        let accept = program.steps.len();
        let (mut now, mut next) = (States::new(accept), States::new(accept));
        let mut best: Option<(usize, usize)> = None;
        now.clear();
        let mut at = from;
        loop {
            // A new start comes after the older ones: a state that both reach keeps the older.
            if best.is_none() && at <= last {
                if now.list.is_empty()
                    && let Some(first) = &program.first
                {
                    // Nothing is under way: go to where something can start.
                    let can = |&c: &u32| c >= 128 || first[c as usize];
                    match self.text.chars[at.min(self.length())..].iter().position(can) {
                        Some(ahead) if at + ahead <= last => at += ahead,
                        _ => return None,
                    }
                    // The states' marks were of another position.
                    now.clear();
                }
                if self.reach(&mut now, 0, at, at, accept) {
                    best = Some((at, at));
                }
            }
            if now.list.is_empty() && (best.is_some() || at >= last) || at >= self.length() {
                return best;
            }
            let c = self.text.chars[at];
            at += 1;
            next.clear();
            for &(pc, start) in &now.list {
                if best.is_some_and(|(found, _)| start > found) {
                    continue;
                }
                if let Step::Consume(node) = program.steps[pc]
                    && program.consumes(node, c)
                    && self.reach(&mut next, pc + 1, start, at, accept)
                {
                    best = match best {
                        Some((found, _)) if found < start => best,
                        _ => Some((start, at)),
                    };
                }
            }
            core::mem::swap(&mut now, &mut next);
        }
    }

    /// Group bounds inside a match, as glibc chooses them: of all ways to the known end the one that
    /// takes the first branch wherever it leads there (so not POSIX's longest parts).
    pub(crate) fn dissect(&self, from: usize, to: usize) -> Groups {
        let mut groups: Groups = alloc::vec![None; self.program.tree.groups + 1];
        groups[0] = Some((from, to));
        if self.program.tree.groups == 0 {
            return groups;
        }
        let live = self.live(from, to);
        let count = self.program.steps.len() + 1;
        let mut starts = alloc::vec![0; groups.len()];
        // Loops that have been gone round.
        let mut entered = alloc::vec![false; count];
        let (mut pc, mut at) = (0, from);
        while let Some(way) = self.way(pc, at, to, &live[(at - from) * count..], &entered) {
            for slot in way.saves {
                if slot % 2 == 0 {
                    starts[slot / 2] = at;
                } else {
                    groups[slot / 2] = Some((starts[slot / 2], at));
                }
            }
            way.splits.iter().for_each(|&split| entered[split] = true);
            if way.step + 1 == count {
                break;
            }
            (pc, at) = (way.step + 1, at + 1);
        }
        groups
    }

    /// The first way, in order of preference, from `pc` to a step that consumes the character at
    /// `at` and leads on, or to the end of the program. An iteration of nothing counts only where it is
    /// the loop's first.
    fn way(&self, pc: usize, at: usize, to: usize, live: &[bool], entered: &[bool]) -> Option<Way> {
        let count = self.program.steps.len() + 1;
        let mut visited = alloc::vec![false; count];
        let mut way = Way { step: 0, saves: Vec::new(), splits: Vec::new() };
        let mut others = alloc::vec![(pc, 0, 0)];
        while let Some((mut pc, saves, splits)) = others.pop() {
            way.saves.truncate(saves);
            way.splits.truncate(splits);
            loop {
                let Some(&step) = self.program.steps.get(pc) else {
                    if at != to {
                        break;
                    }
                    way.step = pc;
                    return Some(way);
                };
                match step {
                    Step::Consume(_) => {
                        // Live: it consumes this character, and the end can be reached after it.
                        if !live[pc] {
                            break;
                        }
                        way.step = pc;
                        return Some(way);
                    }
                    Step::Assert(anchor) if !self.holds(anchor, at) => break,
                    Step::Assert(_) => pc += 1,
                    Step::Save(slot) => {
                        way.saves.push(slot);
                        pc += 1;
                    }
                    Step::Jump(next) => pc = next,
                    Step::Split(_, second) if way.splits.contains(&pc) => {
                        if entered[pc] {
                            break;
                        }
                        pc = second;
                    }
                    Step::Split(first, second) => {
                        if visited[pc] {
                            break;
                        }
                        visited[pc] = true;
                        others.push((second, way.saves.len(), way.splits.len()));
                        way.splits.push(pc);
                        pc = first;
                    }
                }
            }
        }
        None
    }

    /// For each position and step whether the end of the program can be reached from there at `to`.
    fn live(&self, from: usize, to: usize) -> Vec<bool> {
        let count = self.program.steps.len() + 1;
        let mut live = alloc::vec![false; (to - from + 1) * count];
        for at in (from..=to).rev() {
            let base = (at - from) * count;
            live[base + count - 1] = at == to;
            // Jumps lead back as well: until nothing changes.
            let mut changed = true;
            while changed {
                changed = false;
                for pc in (0..count - 1).rev() {
                    if live[base + pc] {
                        continue;
                    }
                    live[base + pc] = match self.program.steps[pc] {
                        Step::Consume(node) => {
                            at < to
                                && live[base + count + pc + 1]
                                && self.program.consumes(node, self.text.chars[at])
                        }
                        Step::Assert(anchor) => live[base + pc + 1] && self.holds(anchor, at),
                        Step::Save(_) => live[base + pc + 1],
                        Step::Jump(next) => live[base + next],
                        Step::Split(a, b) => live[base + a] || live[base + b],
                    };
                    changed |= live[base + pc];
                }
            }
        }
        live
    }

    /// By trying, for patterns with back references: the longest match from `from`.
    pub(crate) fn try_at(&self, from: usize) -> Option<Groups> {
        let mut best: Option<Groups> = None;
        let mut groups: Groups = alloc::vec![None; self.program.tree.groups + 1];
        let all = self.length();
        self.attempt(self.program.tree.root, from, &mut groups, &mut |end, groups| {
            let longer = best.as_ref().and_then(|best| best[0]).is_none_or(|(_, known)| end > known);
            if longer {
                let mut found = groups.clone();
                found[0] = Some((from, end));
                best = Some(found);
            }
            // Nothing can be longer than all.
            end == all
        });
        best
    }

    /// Calls `then` for every way in which the node matches at `at`, until it says to stop.
    fn attempt(
        &self,
        node: NodeId,
        at: usize,
        groups: &mut Groups,
        then: &mut dyn FnMut(usize, &mut Groups) -> bool,
    ) -> bool {
        match &self.program.tree.nodes[node] {
            Node::Empty => then(at, groups),
            Node::Anchor(anchor) => self.holds(*anchor, at) && then(at, groups),
            Node::Group(number, inner) => {
                let old = groups[*number];
                let stop = self.attempt(*inner, at, groups, &mut |end, groups| {
                    let inner_old = groups[*number];
                    groups[*number] = Some((at, end));
                    let stop = then(end, groups);
                    groups[*number] = inner_old;
                    stop
                });
                groups[*number] = old;
                stop
            }
            Node::Concat(parts) => self.attempt_all(parts, at, groups, then),
            Node::Alternate(branches) => {
                branches.iter().any(|&branch| self.attempt(branch, at, groups, then))
            }
            Node::Repeat { inner, min, max } => self.attempt_repeat(*inner, *min, *max, at, groups, then),
            Node::BackReference(number) => {
                let Some((from, to)) = groups[*number] else { return false };
                let size = to - from;
                let same =
                    |i: usize| self.program.rules.same(self.text.chars[from + i], self.text.chars[at + i]);
                at + size <= self.length() && (0..size).all(same) && then(at + size, groups)
            }
            _ => {
                at < self.length() && self.program.consumes(node, self.text.chars[at]) && then(at + 1, groups)
            }
        }
    }

    fn attempt_all(
        &self,
        parts: &[NodeId],
        at: usize,
        groups: &mut Groups,
        then: &mut dyn FnMut(usize, &mut Groups) -> bool,
    ) -> bool {
        let Some((&first, rest)) = parts.split_first() else { return then(at, groups) };
        self.attempt(first, at, groups, &mut |end, groups| self.attempt_all(rest, end, groups, then))
    }

    fn attempt_repeat(
        &self,
        inner: NodeId,
        min: u32,
        max: Option<u32>,
        at: usize,
        groups: &mut Groups,
        then: &mut dyn FnMut(usize, &mut Groups) -> bool,
    ) -> bool {
        if max != Some(0) {
            let stop = self.attempt(inner, at, groups, &mut |end, groups| {
                // A repetition of nothing goes nowhere.
                if end == at && min == 0 {
                    return false;
                }
                self.attempt_repeat(inner, min.saturating_sub(1), max.map(|max| max - 1), end, groups, then)
            });
            if stop {
                return true;
            }
        }
        min == 0 && then(at, groups)
    }
}

/// Whether a pattern has back references and so needs [`Search::try_at`].
impl Program {
    pub(crate) fn needs_trying(&self) -> bool {
        self.tree.back_references
    }
}
