//! Time zones: TZif files (RFC 8536, versions 1 to 3) and POSIX TZ strings, and their rules.
//!
//! A [`Zone`] answers which local time type holds at an instant. Its abbreviations live for ever
//! (they are handed out as `tm_zone` and `tzname`), once each.

use crate::futex::Lock;
use crate::kcall;
use crate::types::*;
use alloc::vec::Vec;
use platform::Errno;

/// A local time type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// Seconds east of UTC.
    pub offset: i64,
    /// Daylight saving time.
    pub dst: bool,
    /// Abbreviation, a C string that lives for ever.
    pub name: &'static [u8],
}

/// When in a year a POSIX rule changes the time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Day {
    /// `Jn`: 1..=365, February 29 never counts.
    Julian(i64),
    /// `n`: 0..=365.
    Zero(i64),
    /// `Mm.w.d`
    Month(i64, i64, i64),
}

/// One change of a POSIX rule: a day and seconds after its local midnight.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    day: Day,
    seconds: i64,
}

/// A POSIX TZ string.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    standard: Kind,
    /// Daylight saving time and when it starts and ends.
    daylight: Option<(Kind, Change, Change)>,
}

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Instants at which the type changes, ascending, and the type from then on.
    transitions: Vec<(i64, Kind)>,
    /// Before the first of them.
    first: Kind,
    /// After the last of them.
    rule: Option<Rule>,
    /// Leap seconds: (instant in the file's count, total correction from then on).
    leaps: Vec<(i64, i64)>,
}

static NAMES: Lock<Vec<&'static [u8]>> = Lock::new(Vec::new());

/// Held over a fork.
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    NAMES.raw()
}

/// Interns an abbreviation; the result ends in NUL.
fn intern(name: &[u8]) -> &'static [u8] {
    match name {
        b"UTC" => return b"UTC\0",
        b"GMT" => return b"GMT\0",
        _ => {}
    }
    let mut names = NAMES.lock();
    if let Some(known) = names.iter().find(|known| &known[..known.len() - 1] == name) {
        return known;
    }
    let mut owned = name.to_vec();
    owned.push(0);
    let kept: &'static [u8] = owned.leak();
    names.push(kept);
    kept
}

/// Days from 1970-01-01 to the first day of `year` (proleptic Gregorian).
pub fn days_to_year(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - 492) - (y.div_euclid(100) - 19) + (y.div_euclid(400) - 4)
}

/// Whether February of `year` has 29 days.
pub fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days before each month of a common year.
pub const BEFORE_MONTH: [i64; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];

/// Days before `month` (0 to 12) of `year`.
pub fn days_before(year: i64, month: usize) -> i64 {
    BEFORE_MONTH[month] + (month > 1 && is_leap(year)) as i64
}

/// The year that day number `days` since 1970 lies in.
pub fn year_of(days: i64) -> i64 {
    let mut year = 1970 + days.div_euclid(146097) * 400 + days.rem_euclid(146097) * 400 / 146097;
    while days_to_year(year) > days {
        year -= 1;
    }
    while days_to_year(year + 1) <= days {
        year += 1;
    }
    year
}

impl Change {
    /// Seconds since 1970 of local wall time in `year`, as if UTC. As in glibc the changes of a year
    /// before 1970 lie in 1970, so that a rule alone has no changes before.
    fn at(&self, year: i64) -> i64 {
        let shift = days_to_year(year.max(1970)) - days_to_year(year);
        self.in_year(year) + shift * 86400
    }

    fn in_year(&self, year: i64) -> i64 {
        let start = days_to_year(year);
        let day = match self.day {
            Day::Julian(n) => start + n - 1 + (n >= 60 && is_leap(year)) as i64,
            Day::Zero(n) => start + n,
            Day::Month(month, week, weekday) => {
                let first = start + days_before(year, month as usize - 1);
                // 1970-01-01 was a Thursday.
                let ahead = (weekday - (first + 4)).rem_euclid(7);
                let mut day = first + ahead + (week - 1) * 7;
                if day >= start + days_before(year, month as usize) {
                    day -= 7;
                }
                day
            }
        };
        day * 86400 + self.seconds
    }
}

impl Rule {
    fn at(&self, time: i64) -> Kind {
        let Some((daylight, start, end)) = self.daylight else { return self.standard };
        let year = year_of((time + self.standard.offset).div_euclid(86400));
        let start = start.at(year) - self.standard.offset;
        let end = end.at(year) - daylight.offset;
        let is_daylight =
            if start < end { (start..end).contains(&time) } else { !(end..start).contains(&time) };
        if is_daylight { daylight } else { self.standard }
    }
}

/// Reads a POSIX TZ string from the front of a text.
struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn peek(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }
    fn eat(&mut self, c: u8) -> bool {
        let is = self.peek() == c && c != 0;
        if is {
            self.0 = &self.0[1..];
        }
        is
    }
    fn number(&mut self, limit: i64) -> Option<i64> {
        let digits = self.0.iter().take_while(|c| c.is_ascii_digit()).count();
        let value = self.0[..digits].iter().take(9).fold(0, |n, c| n * 10 + (c - b'0') as i64);
        self.0 = &self.0[digits..];
        (digits > 0 && value <= limit).then_some(value)
    }
    fn name(&mut self) -> Option<&'static [u8]> {
        let quoted = self.eat(b'<');
        let inside = |c: &&u8| {
            if quoted {
                c.is_ascii_alphanumeric() || **c == b'+' || **c == b'-'
            } else {
                c.is_ascii_alphabetic()
            }
        };
        let length = self.0.iter().take_while(inside).count();
        let name = &self.0[..length];
        self.0 = &self.0[length..];
        if length < 3 || quoted && !self.eat(b'>') {
            return None;
        }
        Some(intern(name))
    }
    /// `[+-]hh[:mm[:ss]]` in seconds; hours to 167 (RFC 8536 3.3.1).
    fn clock(&mut self) -> Option<i64> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let mut seconds = self.number(167)? * 3600;
        if self.eat(b':') {
            seconds += self.number(59)? * 60;
            if self.eat(b':') {
                seconds += self.number(59)?;
            }
        }
        Some(if negative { -seconds } else { seconds })
    }
    fn change(&mut self) -> Option<Change> {
        let day = if self.eat(b'J') {
            Day::Julian(self.number(365).filter(|&n| n > 0)?)
        } else if self.eat(b'M') {
            let month = self.number(12).filter(|&n| n > 0)?;
            let week = self.eat(b'.').then(|| self.number(5))?.filter(|&n| n > 0)?;
            Day::Month(month, week, self.eat(b'.').then(|| self.number(6))??)
        } else {
            Day::Zero(self.number(365)?)
        };
        let seconds = if self.eat(b'/') { self.clock()? } else { 7200 };
        Some(Change { day, seconds })
    }
}

/// Parses a POSIX TZ string, "CET-1CEST,M3.5.0,M10.5.0/3".
pub fn parse_rule(text: &[u8]) -> Option<Rule> {
    let mut parser = Parser(text);
    let name = parser.name()?;
    let offset = -parser.clock()?;
    let standard = Kind { offset, dst: false, name };
    if parser.0.is_empty() {
        return Some(Rule { standard, daylight: None });
    }
    let name = parser.name()?;
    let offset = match parser.peek() {
        0 | b',' => offset + 3600,
        _ => -parser.clock()?,
    };
    let daylight = Kind { offset, dst: true, name };
    let (start, end) = if parser.eat(b',') {
        let start = parser.change()?;
        (start, parser.eat(b',').then(|| parser.change())??)
    } else {
        // glibc's default: the rules of the United States.
        let change = |month, week| Change { day: Day::Month(month, week, 0), seconds: 7200 };
        (change(3, 2), change(11, 1))
    };
    parser.0.is_empty().then_some(Rule { standard, daylight: Some((daylight, start, end)) })
}

/// One data block of a TZif file: its size and its header's counts.
struct Header {
    version: u8,
    utc: usize,
    standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    names: usize,
}

impl Header {
    const SIZE: usize = 44;

    fn parse(file: &[u8]) -> Option<Header> {
        let count = |at: usize| {
            let bytes = file.get(20 + at * 4..24 + at * 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
        };
        if file.get(..4)? != b"TZif" {
            return None;
        }
        let header = Header {
            version: *file.get(4)?,
            utc: count(0)?,
            standard: count(1)?,
            leaps: count(2)?,
            times: count(3)?,
            types: count(4)?,
            names: count(5)?,
        };
        (header.types > 0 && header.times < 1 << 20 && header.names < 1 << 16 && header.leaps < 1 << 16)
            .then_some(header)
    }
    fn body(&self, word: usize) -> usize {
        self.times * (word + 1)
            + self.types * 6
            + self.names
            + self.leaps * (word + 4)
            + self.standard
            + self.utc
    }
}

/// Parses a TZif file; anything out of bounds or inconsistent is no zone.
pub fn parse_file(file: &[u8]) -> Option<Zone> {
    let first = Header::parse(file)?;
    if first.version == 0 {
        return parse_block(&file[Header::SIZE..], &first, 4).map(|(zone, _)| zone);
    }
    // Version 2 and later: a second header and block with 64-bit times, then a TZ string.
    let rest = file.get(Header::SIZE + first.body(4)..)?;
    let header = Header::parse(rest)?;
    let (mut zone, footer) = parse_block(&rest[Header::SIZE..], &header, 8)?;
    let footer = footer.strip_prefix(b"\n")?;
    let line = &footer[..footer.iter().position(|&c| c == b'\n')?];
    zone.rule = if line.is_empty() { None } else { Some(parse_rule(line)?) };
    Some(zone)
}

fn parse_block<'a>(block: &'a [u8], header: &Header, word: usize) -> Option<(Zone, &'a [u8])> {
    let (body, footer) = (block.get(..header.body(word))?, &block[header.body(word)..]);
    let (times, body) = body.split_at(header.times * word);
    let (indexes, body) = body.split_at(header.times);
    let (types, body) = body.split_at(header.types * 6);
    let (names, body) = body.split_at(header.names);
    let leaps = &body[..header.leaps * (word + 4)];
    let number = |bytes: &[u8]| match bytes.len() {
        8 => bytes.try_into().ok().map(i64::from_be_bytes),
        _ => bytes.try_into().ok().map(|b| i32::from_be_bytes(b) as i64),
    };
    let mut kinds = Vec::with_capacity(header.types);
    for entry in types.chunks_exact(6) {
        let name = names.get(entry[5] as usize..)?;
        let name = &name[..name.iter().position(|&c| c == 0)?];
        kinds.push(Kind { offset: number(&entry[..4])?, dst: entry[4] != 0, name: intern(name) });
    }
    let mut transitions = Vec::with_capacity(header.times);
    for (time, &index) in times.chunks_exact(word).zip(indexes) {
        transitions.push((number(time)?, *kinds.get(index as usize)?));
    }
    if !transitions.is_sorted_by(|a, b| a.0 < b.0) {
        return None;
    }
    let mut corrections = Vec::with_capacity(header.leaps);
    for entry in leaps.chunks_exact(word + 4) {
        corrections.push((number(&entry[..word])?, number(&entry[word..])?));
    }
    Some((Zone { transitions, first: kinds[0], rule: None, leaps: corrections }, footer))
}

impl Zone {
    /// UTC under a name.
    pub fn utc(name: &[u8]) -> Zone {
        let first = Kind { offset: 0, dst: false, name: intern(name) };
        Zone { transitions: Vec::new(), first, rule: None, leaps: Vec::new() }
    }

    /// A zone that is only a rule.
    pub fn of_rule(rule: Rule) -> Zone {
        Zone { transitions: Vec::new(), first: rule.standard, rule: Some(rule), leaps: Vec::new() }
    }

    /// The local time type at `time`.
    pub fn at(&self, time: i64) -> Kind {
        let after = self.transitions.partition_point(|&(at, _)| at <= time);
        match (after, self.rule) {
            (_, Some(rule)) if after == self.transitions.len() => rule.at(time),
            (0, _) => self.first,
            _ => self.transitions[after - 1].1,
        }
    }

    /// Leap seconds to take off at `time`, and whether `time` is itself an inserted one.
    pub fn leap(&self, time: i64) -> (i64, i64) {
        let after = self.leaps.partition_point(|&(at, _)| at <= time);
        let Some(&(at, total)) = self.leaps[..after].last() else { return (0, 0) };
        let before = if after > 1 { self.leaps[after - 2].1 } else { 0 };
        (total, (time == at && total > before) as i64)
    }

    /// `time` without leap seconds as the zone's own count has it (zones under right/).
    pub fn with_leaps(&self, time: i64) -> i64 {
        let near = time + self.leap(time).0;
        time + self.leap(near).0
    }

    /// Standard and daylight types as `tzname` shows them: the last of each that the zone has.
    pub fn names(&self) -> (Option<Kind>, Option<Kind>) {
        let mut found = (None, None);
        let mut note = |kind: Kind| match kind.dst {
            false => found.0 = Some(kind),
            true => found.1 = Some(kind),
        };
        note(self.first);
        self.transitions.iter().for_each(|&(_, kind)| note(kind));
        if let Some(rule) = self.rule {
            note(rule.standard);
            if let Some((daylight, ..)) = rule.daylight {
                note(daylight);
            }
        }
        found
    }
}

/// What TZ asks for, as glibc's tzset reads it: a file under the zone directory, an absolute path, a
/// POSIX string; unset is /etc/localtime, empty or unknown is UTC.
pub fn load(setting: Option<&[u8]>, directory: Option<&[u8]>) -> Zone {
    let text = match setting {
        None => return read_zone(b"/etc/localtime").unwrap_or_else(|| Zone::utc(b"UTC")),
        Some(text) => text.strip_prefix(b":").unwrap_or(text),
    };
    if text.is_empty() {
        return Zone::utc(b"UTC");
    }
    let path = if text[0] == b'/' {
        text.to_vec()
    } else {
        let mut path = directory.unwrap_or(b"/usr/share/zoneinfo").to_vec();
        path.push(b'/');
        path.extend_from_slice(text);
        path
    };
    if let Some(zone) = read_zone(&path) {
        return zone;
    }
    match parse_rule(text) {
        Some(rule) => Zone::of_rule(rule),
        // Not a zone: UTC under the letters that it starts with, as glibc shows it.
        None => match Parser(text).name() {
            Some(name) => Zone::utc(&name[..name.len() - 1]),
            None => Zone::utc(b"UTC"),
        },
    }
}

fn read_zone(path: &[u8]) -> Option<Zone> {
    parse_file(&read_file(path).ok()?)
}

/// A whole file, up to the size that a zone can sensibly have.
pub(crate) fn read_file(path: &[u8]) -> Result<Vec<u8>, Errno> {
    const AT_FDCWD: i32 = -100;
    const O_CLOEXEC: c_int = 0o2000000;
    const LIMIT: usize = 1 << 20;
    let mut name = path.to_vec();
    name.push(0);
    // SAFETY: a C string in; the buffer outlives the reads; the descriptor is ours to close.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD as isize, name.as_ptr(), O_CLOEXEC)?;
        let mut file = Vec::new();
        let result = loop {
            let used = file.len();
            file.resize(used + 8192, 0u8);
            match kcall!(read, fd, file.as_mut_ptr().add(used), 8192) {
                Ok(0) => {
                    file.truncate(used);
                    break Ok(());
                }
                Ok(n) if used + n <= LIMIT => file.truncate(used + n),
                Ok(_) => break Err(Errno(27)),
                Err(Errno(4)) => file.truncate(used),
                Err(errno) => break Err(errno),
            }
        };
        let _ = kcall!(close, fd);
        result.map(|()| file)
    }
}
