//! The line discipline N_TTY (termios(3)): what happens between a keyboard and a program, and back.
//!
//! No I/O here: bytes from the master go in by [`Line::input`], bytes for it come out in
//! [`Line::output`]; a program's reads and writes are [`Line::read`] and [`Line::write`]. What shall be
//! signalled is answered. Behaviour is Linux's (drivers/tty/n_tty.c), byte for byte in the echo.
//!
//! Left out: parity, breaks and modem lines, which pseudo-terminals do not have; XCASE, OFILL and delays
//! other than XTABS, which Linux does not do either.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Bytes of unread input (N_TTY_BUF_SIZE, less one).
const INPUT: usize = 4095;
/// Bytes of output that the master has not read; more makes a writer wait.
const OUTPUT: usize = 8192;
/// `_POSIX_VDISABLE`
const DISABLED: u8 = 0;

#[allow(missing_docs)]
pub mod flag {
    pub const ISTRIP: u32 = 0o40;
    pub const PARMRK: u32 = 0o10;
    pub const INLCR: u32 = 0o100;
    pub const IGNCR: u32 = 0o200;
    pub const ICRNL: u32 = 0o400;
    pub const IUCLC: u32 = 0o1000;
    pub const IXON: u32 = 0o2000;
    pub const IXANY: u32 = 0o4000;
    pub const IUTF8: u32 = 0o40000;
    pub const OPOST: u32 = 0o1;
    pub const OLCUC: u32 = 0o2;
    pub const ONLCR: u32 = 0o4;
    pub const OCRNL: u32 = 0o10;
    pub const ONOCR: u32 = 0o20;
    pub const ONLRET: u32 = 0o40;
    pub const XTABS: u32 = 0o14000;
    pub const ISIG: u32 = 0o1;
    pub const ICANON: u32 = 0o2;
    pub const ECHO: u32 = 0o10;
    pub const ECHOE: u32 = 0o20;
    pub const ECHOK: u32 = 0o40;
    pub const ECHONL: u32 = 0o100;
    pub const NOFLSH: u32 = 0o200;
    pub const TOSTOP: u32 = 0o400;
    pub const ECHOCTL: u32 = 0o1000;
    pub const ECHOPRT: u32 = 0o2000;
    pub const ECHOKE: u32 = 0o4000;
    pub const IEXTEN: u32 = 0o100000;
    pub const EXTPROC: u32 = 0o200000;
}
use flag::*;

const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
const VTIME: usize = 5;
const VMIN: usize = 6;
const VSTART: usize = 8;
const VSTOP: usize = 9;
const VSUSP: usize = 10;
const VEOL: usize = 11;
const VREPRINT: usize = 12;
const VWERASE: usize = 14;
const VLNEXT: usize = 15;
const VEOL2: usize = 16;

/// Status bits of packet mode (ioctl_tty(2), TIOCPKT).
#[allow(missing_docs)]
pub mod packet {
    pub const FLUSHREAD: u8 = 1;
    pub const FLUSHWRITE: u8 = 2;
    pub const STOP: u8 = 4;
    pub const START: u8 = 8;
    pub const NOSTOP: u8 = 16;
    pub const DOSTOP: u8 = 32;
    pub const IOCTL: u8 = 64;
}

/// The kernel's `struct termios2`; its first 36 bytes are `struct termios`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Termios {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub line: u8,
    pub chars: [u8; 19],
    pub input_speed: u32,
    pub output_speed: u32,
}
const _: () = assert!(size_of::<Termios>() == 44);

impl Termios {
    /// A fresh pseudo-terminal's (tty_std_termios, with pty.c's control flags).
    pub const fn standard() -> Termios {
        let mut chars = [0; 19];
        chars[VINTR] = 3;
        chars[VQUIT] = 0o34;
        chars[VERASE] = 0o177;
        chars[VKILL] = 0o25;
        chars[VEOF] = 4;
        chars[VMIN] = 1;
        chars[VSTART] = 0o21;
        chars[VSTOP] = 0o23;
        chars[VSUSP] = 0o32;
        chars[VREPRINT] = 0o22;
        chars[13] = 0o17;
        chars[VWERASE] = 0o27;
        chars[VLNEXT] = 0o26;
        Termios {
            input: ICRNL | IXON,
            output: OPOST | ONLCR,
            // B38400 | CS8 | CREAD
            control: 0o277,
            local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            chars,
            input_speed: 38400,
            output_speed: 38400,
        }
    }

    /// VMIN, and VTIME in tenths of a second.
    pub fn min_and_time(&self) -> (usize, u64) {
        (self.chars[VMIN] as usize, self.chars[VTIME] as u64)
    }
}

/// One terminal's state.
pub struct Line {
    /// Settings.
    pub termios: Termios,
    /// Unread input: a byte, and whether a line ends with it. A NUL that ends a line is its VEOF.
    input: VecDeque<(u8, bool)>,
    /// Line ends in `input`.
    lines: usize,
    /// What the master may read.
    pub output: VecDeque<u8>,
    /// Echo that waits for output to go on.
    echo: Vec<u8>,
    column: usize,
    /// The column where the line that is typed began.
    line_column: usize,
    /// The next byte is taken as it is (VLNEXT).
    literal: bool,
    /// Inside an ECHOPRT erasure.
    erasing: bool,
    /// VSTOP or TCOOFF.
    pub stopped: bool,
    /// What packet mode has to tell.
    pub status: u8,
}

impl Line {
    /// A fresh terminal.
    pub const fn new() -> Line {
        Line {
            termios: Termios::standard(),
            input: VecDeque::new(),
            lines: 0,
            output: VecDeque::new(),
            echo: Vec::new(),
            column: 0,
            line_column: 0,
            literal: false,
            erasing: false,
            stopped: false,
            status: 0,
        }
    }

    fn local(&self, flag: u32) -> bool {
        self.termios.local & flag != 0
    }

    fn in_flag(&self, flag: u32) -> bool {
        self.termios.input & flag != 0
    }

    fn is(&self, byte: u8, which: usize) -> bool {
        self.termios.chars[which] != DISABLED && self.termios.chars[which] == byte
    }

    /// Whether lines are edited.
    pub fn canonical(&self) -> bool {
        self.local(ICANON)
    }

    // ---- from the master ----

    /// Whether another byte of input is taken now. A line that is being typed is never stuck: it loses its
    /// last byte for the newcomer.
    pub fn takes_input(&self) -> bool {
        self.input.len() < INPUT || (self.canonical() && self.lines == 0)
    }

    /// One byte from the master. Answers the signal that it stands for.
    pub fn input(&mut self, byte: u8) -> Option<i32> {
        let mut byte = if self.in_flag(ISTRIP) { byte & 0x7f } else { byte };
        if self.in_flag(IUCLC) && self.local(IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if self.local(EXTPROC) {
            self.put(byte, false);
            return None;
        }
        if core::mem::take(&mut self.literal) {
            self.ordinary(byte);
            return None;
        }
        if self.stopped && !self.is_flow(byte) && self.in_flag(IXON) && self.in_flag(IXANY) {
            self.start();
        }
        if self.in_flag(IXON) && self.is(byte, VSTART) {
            self.start();
            return None;
        }
        if self.in_flag(IXON) && self.is(byte, VSTOP) {
            self.stop();
            return None;
        }
        if self.local(ISIG)
            && let Some(signal) = self.signal_of(byte)
        {
            self.interrupt(byte);
            return Some(signal);
        }
        match byte {
            b'\r' if self.in_flag(IGNCR) => return None,
            b'\r' if self.in_flag(ICRNL) => byte = b'\n',
            b'\n' if self.in_flag(INLCR) => byte = b'\r',
            _ => {}
        }
        if !(self.canonical() && self.edit(byte)) {
            self.ordinary(byte);
        }
        None
    }

    fn is_flow(&self, byte: u8) -> bool {
        self.is(byte, VSTART) || self.is(byte, VSTOP) || (self.local(ISIG) && self.signal_of(byte).is_some())
    }

    fn signal_of(&self, byte: u8) -> Option<i32> {
        const SIGNALS: [(usize, i32); 3] = [(VINTR, 2), (VQUIT, 3), (VSUSP, 20)];
        SIGNALS.iter().find(|(which, _)| self.is(byte, *which)).map(|(_, signal)| *signal)
    }

    /// A byte that signals: drops what is under way, and shows itself.
    fn interrupt(&mut self, byte: u8) {
        if !self.local(NOFLSH) {
            self.echo.clear();
            self.flush_output();
            self.flush_input();
        }
        if self.in_flag(IXON) {
            self.start();
        }
        if self.local(ECHO) {
            self.show(byte);
        }
    }

    /// Editing and line ends. `false`: an ordinary byte.
    fn edit(&mut self, byte: u8) -> bool {
        let extended = self.local(IEXTEN);
        if self.is(byte, VERASE) || self.is(byte, VKILL) || (self.is(byte, VWERASE) && extended) {
            self.erase(byte);
        } else if self.is(byte, VLNEXT) && extended {
            self.literal = true;
            if self.local(ECHO) {
                self.finish_erasing();
                if self.local(ECHOCTL) {
                    self.emit_raw(b"^\x08");
                }
            }
        } else if self.is(byte, VREPRINT) && self.local(ECHO) && extended {
            self.reprint(byte);
        } else if byte == b'\n' {
            if self.local(ECHO) || self.local(ECHONL) {
                self.emit(b'\n');
            }
            self.put(byte, true);
        } else if self.is(byte, VEOF) {
            self.put(DISABLED, true);
        } else if self.is(byte, VEOL) || (self.is(byte, VEOL2) && extended) {
            if self.local(ECHO) {
                self.note_line_column();
                self.show(byte);
            }
            self.put(byte, true);
        } else {
            return false;
        }
        true
    }

    fn reprint(&mut self, byte: u8) {
        self.finish_erasing();
        self.show(byte);
        self.emit(b'\n');
        let from = self.input.len() - self.typed();
        let bytes: Vec<u8> = self.input.range(from..).map(|(byte, _)| *byte).collect();
        bytes.into_iter().for_each(|byte| self.show(byte));
    }

    fn ordinary(&mut self, byte: u8) {
        if self.local(ECHO) {
            self.finish_erasing();
            if byte == b'\n' {
                self.emit(b'\n');
            } else {
                self.note_line_column();
                self.show(byte);
            }
        }
        if self.in_flag(PARMRK) && byte == 0xff {
            self.put(byte, false);
        }
        self.put(byte, false);
    }

    fn note_line_column(&mut self) {
        if self.typed() == 0 {
            self.line_column = self.column;
        }
    }

    fn put(&mut self, byte: u8, ends: bool) {
        if self.input.len() >= INPUT
            && let Some((_, true)) = self.input.pop_back()
        {
            self.lines -= 1;
        }
        self.input.push_back((byte, ends));
        self.lines += usize::from(ends);
    }

    /// Bytes of the line that is being typed.
    fn typed(&self) -> usize {
        self.input.iter().rev().take_while(|(_, ends)| !ends).count()
    }

    /// VERASE, VWERASE, VKILL.
    fn erase(&mut self, by: u8) {
        if self.typed() == 0 {
            return;
        }
        let kill = self.is(by, VKILL);
        let word = self.is(by, VWERASE) && !self.is(by, VERASE);
        if kill && !(self.local(ECHO) && self.local(ECHOK) && self.local(ECHOKE) && self.local(ECHOE)) {
            self.forget_typed();
            if self.local(ECHO) {
                self.finish_erasing();
                self.show(by);
                // Like it or not, the kill character starts a new line only with ECHOK.
                if self.local(ECHOK) {
                    self.emit(b'\n');
                }
            }
            return;
        }
        let mut seen_word = false;
        while self.typed() > 0 {
            let Some(piece) = self.last_character() else { break };
            let first = piece[0];
            if word {
                if first.is_ascii_alphanumeric() || first == b'_' {
                    seen_word = true;
                } else if seen_word {
                    break;
                }
            }
            for _ in 0..piece.len() {
                self.input.pop_back();
            }
            if self.local(ECHO) {
                self.show_erased(&piece, by, !kill && !word);
            }
            if !kill && !word {
                break;
            }
        }
        if self.typed() == 0 && self.local(ECHO) {
            self.finish_erasing();
        }
    }

    fn forget_typed(&mut self) {
        let keep = self.input.len() - self.typed();
        self.input.truncate(keep);
    }

    /// The bytes of the last character that was typed: several in UTF-8.
    fn last_character(&self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        for (byte, _) in self.input.iter().rev().take(self.typed()) {
            piece.insert(0, *byte);
            if !self.continues(*byte) {
                return Some(piece);
            }
        }
        // Continuation bytes without a first one are not erased.
        None
    }

    fn continues(&self, byte: u8) -> bool {
        self.in_flag(IUTF8) && byte & 0xc0 == 0x80
    }

    fn show_erased(&mut self, piece: &[u8], by: u8, single: bool) {
        let byte = piece[0];
        if self.local(ECHOPRT) {
            if !core::mem::replace(&mut self.erasing, true) {
                self.emit(b'\\');
            }
            self.show(byte);
            piece[1..].iter().for_each(|&byte| self.emit(byte));
        } else if single && !self.local(ECHOE) {
            self.show(by);
        } else if byte == b'\t' {
            self.erase_tab();
        } else {
            let control = byte.is_ascii_control();
            if control && self.local(ECHOCTL) {
                self.emit_all(b"\x08 \x08");
            }
            if !control || self.local(ECHOCTL) {
                self.emit_all(b"\x08 \x08");
            }
        }
    }

    /// Goes back over a tab: as many columns as the line says that it took.
    fn erase_tab(&mut self) {
        let (mut columns, mut after_tab) = (0, false);
        for (byte, _) in self.input.iter().rev().take(self.typed()) {
            match byte {
                b'\t' => {
                    after_tab = true;
                    break;
                }
                byte if byte.is_ascii_control() => columns += if self.local(ECHOCTL) { 2 } else { 0 },
                &byte => columns += usize::from(!self.continues(byte)),
            }
        }
        if !after_tab {
            columns += self.line_column;
        }
        for _ in 0..8 - (columns & 7) {
            self.raw(b'\x08');
            self.column = self.column.saturating_sub(1);
        }
    }

    fn finish_erasing(&mut self) {
        if core::mem::take(&mut self.erasing) {
            self.emit(b'/');
        }
    }

    // ---- echo ----

    /// Shows a byte: control characters as ^X with ECHOCTL.
    fn show(&mut self, byte: u8) {
        if self.local(ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.raw(b'^');
            self.raw(byte ^ 0x40);
            self.column += 2;
        } else {
            self.emit(byte);
        }
    }

    fn emit_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.emit(byte));
    }

    fn emit_raw(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.raw(byte));
    }

    /// Echoes one byte through output processing.
    fn emit(&mut self, byte: u8) {
        let mut bytes = Vec::new();
        self.process(byte, &mut bytes);
        self.emit_raw(&bytes);
    }

    fn raw(&mut self, byte: u8) {
        if self.stopped { self.echo.push(byte) } else { self.output.push_back(byte) }
    }

    // ---- from the program ----

    /// What one written byte becomes (OPOST).
    fn process(&mut self, byte: u8, into: &mut Vec<u8>) {
        let flags = self.termios.output;
        let has = |flag: u32| flags & flag != 0;
        if !has(OPOST) {
            return into.push(byte);
        }
        match byte {
            b'\n' => {
                if has(ONLRET) {
                    self.column = 0;
                }
                if has(ONLCR) {
                    self.column = 0;
                    into.push(b'\r');
                }
                self.line_column = self.column;
                into.push(b'\n');
            }
            b'\r' if has(ONOCR) && self.column == 0 => {}
            b'\r' if has(OCRNL) => {
                if has(ONLRET) {
                    self.column = 0;
                    self.line_column = 0;
                }
                into.push(b'\n');
            }
            b'\r' => {
                self.column = 0;
                self.line_column = 0;
                into.push(b'\r');
            }
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                self.column += spaces;
                if flags & XTABS == XTABS {
                    into.extend(core::iter::repeat_n(b' ', spaces));
                } else {
                    into.push(b'\t');
                }
            }
            b'\x08' => {
                self.column = self.column.saturating_sub(1);
                into.push(byte);
            }
            _ => {
                let byte = if has(OLCUC) { byte.to_ascii_uppercase() } else { byte };
                if !byte.is_ascii_control() && !self.continues(byte) {
                    self.column += 1;
                }
                into.push(byte);
            }
        }
    }

    /// Whether a write would take anything.
    pub fn takes_output(&self) -> bool {
        !self.stopped && self.output.len() < OUTPUT
    }

    /// Writes what fits; answers how many bytes that was.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut out = Vec::new();
        for (at, &byte) in bytes.iter().enumerate() {
            if !self.takes_output() {
                return at;
            }
            out.clear();
            self.process(byte, &mut out);
            self.output.extend(out.iter());
        }
        bytes.len()
    }

    /// Bytes that a read would give now; `None` for nothing to read. A lone VEOF is a read of none.
    pub fn readable(&self) -> Option<usize> {
        if self.canonical() && !self.local(EXTPROC) {
            (self.lines > 0).then(|| self.input.iter().take_while(|(_, ends)| !ends).count())
        } else {
            (!self.input.is_empty()).then_some(self.input.len())
        }
    }

    /// Takes at most `room` bytes; in canonical mode of one line.
    pub fn read(&mut self, room: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        let canonical = self.canonical() && !self.local(EXTPROC);
        while let Some(&(byte, ends)) = self.input.front() {
            let end_of_file = canonical && ends && byte == DISABLED;
            if taken.len() == room && !end_of_file {
                break;
            }
            self.input.pop_front();
            self.lines -= usize::from(ends);
            if !end_of_file {
                taken.push(byte);
            }
            if canonical && ends {
                break;
            }
        }
        taken
    }

    // ---- settings and flow ----

    /// Changes the settings (tcsetattr(3)).
    pub fn set(&mut self, new: Termios) {
        let old = core::mem::replace(&mut self.termios, new);
        if (old.local ^ new.local) & (ICANON | EXTPROC) != 0 {
            self.input.iter_mut().for_each(|(_, ends)| *ends = false);
            self.lines = 0;
            if self.canonical()
                && let Some(last) = self.input.back_mut()
            {
                // What was typed before becomes a line of its own.
                last.1 = true;
                self.lines = 1;
            }
        }
        if self.stopped && old.input & IXON != 0 && !self.in_flag(IXON) {
            self.start();
        }
        let stops = |t: &Termios| t.input & IXON != 0 && t.chars[VSTOP] == 0o23 && t.chars[VSTART] == 0o21;
        if stops(&old) != stops(&new) {
            self.status &= !(packet::DOSTOP | packet::NOSTOP);
            self.status |= if stops(&new) { packet::DOSTOP } else { packet::NOSTOP };
        }
        if (old.local | new.local) & EXTPROC != 0 {
            self.status |= packet::IOCTL;
        }
    }

    /// Output goes no further.
    pub fn stop(&mut self) {
        if !self.stopped {
            self.stopped = true;
            self.status = self.status & !packet::START | packet::STOP;
        }
    }

    /// Output goes on.
    pub fn start(&mut self) {
        if self.stopped {
            self.stopped = false;
            self.status = self.status & !packet::STOP | packet::START;
            self.output.extend(core::mem::take(&mut self.echo));
        }
    }

    /// Drops unread input.
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.lines = 0;
        self.status |= packet::FLUSHREAD;
    }

    /// Drops unread output.
    pub fn flush_output(&mut self) {
        self.output.clear();
        self.status |= packet::FLUSHWRITE;
    }

    /// VSTART or VSTOP towards the other side (TCIOFF, TCION).
    pub fn send_flow(&mut self, stop: bool) {
        let byte = self.termios.chars[if stop { VSTOP } else { VSTART }];
        if byte != DISABLED {
            self.output.push_back(byte);
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Line::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    fn typed(line: &mut Line, text: &[u8]) -> Vec<i32> {
        text.iter().filter_map(|&byte| line.input(byte)).collect()
    }

    fn shown(line: &mut Line) -> String {
        line.output.drain(..).map(char::from).collect()
    }

    #[test]
    fn lines_are_edited_and_end() {
        let mut line = Line::new();
        typed(&mut line, b"ab\x7fc\x04de\n");
        assert_eq!(shown(&mut line), "ab\x08 \x08cde\r\n");
        assert_eq!(line.readable(), Some(2));
        assert_eq!((line.read(1), line.read(9)), (b"a".to_vec(), b"c".to_vec()));
        assert_eq!(line.read(99), b"de\n");
        assert_eq!(line.readable(), None);
        // A lone VEOF is the end of the file.
        typed(&mut line, b"\x04");
        assert_eq!((line.readable(), line.read(9).len()), (Some(0), 0));
    }

    #[test]
    fn keys_signal_and_drop_what_was_typed() {
        let mut line = Line::new();
        assert_eq!(typed(&mut line, b"lost\x03kept\x1a\x16\x03\n"), [2, 20]);
        assert_eq!(line.read(9), b"\x03\n");
        line.termios.local &= !ISIG;
        assert_eq!(typed(&mut line, b"\x03\n"), []);
        assert_eq!(line.read(9), b"\x03\n");
    }

    /// A line that is never ended loses its last byte for each new one, so that its end still fits.
    #[test]
    fn input_is_bounded() {
        let mut line = Line::new();
        line.termios.local &= !ECHO;
        for at in 0..10_000u32 {
            assert!(line.takes_input());
            line.input(b'a' + (at % 26) as u8);
        }
        line.input(b'\n');
        assert!(!line.takes_input());
        assert_eq!(line.read(usize::MAX).len(), INPUT);
        assert!(line.takes_input());
        line.termios.local &= !ICANON;
        for _ in 0..INPUT {
            line.input(b'x');
        }
        assert!(!line.takes_input());
    }

    #[test]
    fn stopped_output_waits() {
        let mut line = Line::new();
        typed(&mut line, b"\x13x");
        assert_eq!((line.write(b"no"), shown(&mut line)), (0, String::new()));
        typed(&mut line, b"\x11");
        assert_eq!((line.write(b"a\n"), shown(&mut line)), (2, String::from("xa\r\n")));
        let much = [b'y'; 3 * OUTPUT];
        assert_eq!((line.write(&much), line.write(&much)), (OUTPUT, 0));
    }
}
