//! Wildcards of policies: `*` stands for any characters, `?` for one. Patterns and texts come from
//! strangers, so the work of a match is bounded: [`Text::work_max`] says by what.
//!
//! A pattern is cut at its `*`; the first part must begin the text, the last one end it, and the
//! others are found from left to right. A part without `?` is found by the crate `memchr`, in
//! linear time. One with `?` is found by the places of its characters, 64 places at a time: going
//! back in the text, as simple matchers do, costs pattern times text.

use std::cell::{Cell, OnceCell};

/// Places of a character in a text, one bit each.
type Places = Vec<u64>;

/// A text that patterns are held against.
#[derive(Debug, Clone)]
pub struct Text<'a> {
    text: &'a str,
    /// The places of each character, by character; made for the first pattern that needs them.
    places: OnceCell<Vec<(char, Places)>>,
    work: Cell<u64>,
}

impl<'a> Text<'a> {
    /// A text that no pattern was held against yet.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self { text, places: OnceCell::new(), work: Cell::new(0) }
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// What all matches have cost so far, in bytes and machine words that were looked at.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.work.get()
    }

    /// The most that one match with a pattern of so many bytes may cost.
    #[must_use]
    pub fn work_max(&self, pattern_bytes: usize) -> u64 {
        let (text, pattern) = (self.text.len() as u64, pattern_bytes as u64);
        3 * (text + pattern + 1) + pattern * (text / 64 + 2)
    }

    /// Whether `pattern` fits the whole text.
    #[must_use]
    pub fn fits(&self, pattern: &str) -> bool {
        self.spend(self.text.len() + pattern.len());
        let Some((first, rest)) = pattern.split_once('*') else {
            return begins(self.text, pattern) == Some("");
        };
        let Some(text) = begins(self.text, first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(text) = ends(text, last) else { return false };
        let before = first.chars().count();
        let mut piece = Piece { text, start: before, end: before + text.chars().count() };
        middle.split('*').filter(|part| !part.is_empty()).all(|part| self.pass(&mut piece, part))
    }

    fn spend(&self, work: usize) {
        self.work.set(self.work.get().saturating_add(work as u64));
    }

    /// Takes from a piece what stands before the end of the first place where `part` fits; false
    /// when there is none.
    fn pass(&self, piece: &mut Piece<'_>, part: &str) -> bool {
        let found = match part.contains('?') {
            true => self.first_place(piece, part).map(|place| {
                let mut places = piece.text.char_indices();
                let end = places.nth(place + part.chars().count() - piece.start);
                end.map_or(piece.text.len(), |(at, _)| at)
            }),
            false => memchr::memmem::find(piece.text.as_bytes(), part.as_bytes())
                .map(|at| at + part.len()),
        };
        // What is passed is never looked at again, so that a text is gone through once.
        self.spend(found.unwrap_or(piece.text.len()) + part.len());
        let Some((passed, rest)) = found.and_then(|at| piece.text.split_at_checked(at)) else {
            return false;
        };
        piece.start += passed.chars().count();
        piece.text = rest;
        true
    }

    /// The first place where a part with `?` fits: a place is left over when each other character
    /// of the part stands where it has to.
    fn first_place(&self, piece: &Piece<'_>, part: &str) -> Option<usize> {
        let last = piece.end.checked_sub(part.chars().count())?;
        if last < piece.start {
            return None;
        }
        let skipped = piece.start / 64;
        let mut left: Places = (skipped..=last / 64).map(|_| u64::MAX).collect();
        *left.first_mut()? &= u64::MAX << (piece.start % 64);
        *left.last_mut()? &= u64::MAX >> (63 - last % 64);
        for (offset, character) in part.chars().enumerate().filter(|(_, c)| *c != '?') {
            let places = self.places_of(character)?;
            let word = |at: usize| places.get(skipped + offset / 64 + at).copied().unwrap_or(0);
            let mut any = 0;
            for (at, left) in left.iter_mut().enumerate() {
                let both = u128::from(word(at)) | u128::from(word(at + 1)) << 64;
                *left &= (both >> (offset % 64)) as u64;
                any |= *left;
            }
            self.spend(left.len());
            if any == 0 {
                return None;
            }
        }
        let at = left.iter().position(|word| *word != 0)?;
        Some((skipped + at) * 64 + left.get(at)?.trailing_zeros() as usize)
    }

    fn places_of(&self, character: char) -> Option<&Places> {
        let all = self.places.get_or_init(|| places(self.text));
        let at = all.binary_search_by_key(&character, |(known, _)| *known).ok()?;
        all.get(at).map(|(_, places)| places)
    }
}

/// What is left of a text, and its places there.
#[derive(Debug)]
struct Piece<'a> {
    text: &'a str,
    start: usize,
    end: usize,
}

fn places(text: &str) -> Vec<(char, Places)> {
    let mut all: Vec<(char, Places)> = Vec::new();
    for (place, character) in text.chars().enumerate() {
        let at = all.binary_search_by_key(&character, |(known, _)| *known).unwrap_or_else(|at| {
            all.insert(at, (character, vec![0; text.len() / 64 + 1]));
            at
        });
        if let Some(word) = all.get_mut(at).and_then(|(_, of)| of.get_mut(place / 64)) {
            *word |= 1 << (place % 64);
        }
    }
    all
}

/// What stands behind `part`, which has no `*`, when the text begins with it.
fn begins<'t>(text: &'t str, part: &str) -> Option<&'t str> {
    if !part.contains('?') {
        return text.strip_prefix(part);
    }
    let mut rest = text.chars();
    part.chars()
        .all(|wanted| rest.next().is_some_and(|got| wanted == '?' || wanted == got))
        .then_some(rest.as_str())
}

/// What stands before `part`, which has no `*`, when the text ends with it.
fn ends<'t>(text: &'t str, part: &str) -> Option<&'t str> {
    if !part.contains('?') {
        return text.strip_suffix(part);
    }
    let mut rest = text.chars();
    let mut wanted = part.chars().rev();
    wanted
        .all(|wanted| rest.next_back().is_some_and(|got| wanted == '?' || wanted == got))
        .then_some(rest.as_str())
}
