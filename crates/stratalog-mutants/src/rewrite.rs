//! Puts mutants behind switches.

use std::ops::Range;

use crate::find::{Instead, Mutant};

/// A file with its mutants behind switches.
pub struct Rewritten {
    pub text: String,
    /// The range of each mutant's own code: a compiler error there belongs to that mutant.
    pub own: Vec<(u32, Range<usize>)>,
    /// The range of each whole switch: a compiler error there may belong to that mutant.
    pub around: Vec<(u32, Range<usize>)>,
}

/// Rewrites a file. The mutants, each with its number, are those of this file.
pub fn rewrite(text: &str, mutants: &[(u32, &Mutant)]) -> Rewritten {
    let mut ordered: Vec<_> = mutants.to_vec();
    // Outer places come before inner ones, and mutants of one place in the order of their numbers.
    ordered.sort_by_key(|(id, mutant)| (mutant.place.start, usize::MAX - mutant.place.end, *id));
    let mut done = Rewritten { text: String::new(), own: Vec::new(), around: Vec::new() };
    let mut rest = &ordered[..];
    render(text, 0..text.len(), &mut rest, &mut done);
    done
}

/// Renders a part of the text; takes the mutants in it from `rest`.
fn render(text: &str, part: Range<usize>, rest: &mut &[(u32, &Mutant)], done: &mut Rewritten) {
    let mut at = part.start;
    while let Some((_, first)) = rest.first().filter(|(_, mutant)| mutant.place.start < part.end) {
        assert!(first.place.start >= at && first.place.end <= part.end, "places of a syntax tree nest");
        let place = first.place.clone();
        done.text.push_str(&text[at..place.start]);
        let same = rest.iter().take_while(|(_, mutant)| mutant.place == place).count();
        let (here, others) = rest.split_at(same);
        *rest = others;
        switch(text, &place, here, rest, done);
        at = place.end;
    }
    done.text.push_str(&text[at..part.end]);
}

/// Renders one place, with all mutants that it has.
fn switch(
    text: &str,
    place: &Range<usize>,
    here: &[(u32, &Mutant)],
    rest: &mut &[(u32, &Mutant)],
    done: &mut Rewritten,
) {
    let begin = done.text.len();
    let returns = place.is_empty();
    let is_statement = here.iter().any(|(_, mutant)| mutant.instead == Instead::Nothing);
    let mut open = 0;
    for (id, mutant) in here {
        if !returns && !is_statement {
            done.text.push('(');
        }
        done.text.push_str(&format!("if crate::mutant::is({id}) {{ "));
        let own = done.text.len();
        match &mutant.instead {
            Instead::Text(text) => done.text.push_str(text),
            Instead::Nothing => {}
            Instead::Return(value) => done.text.push_str(&format!("return {value};")),
        }
        done.own.push((*id, own..done.text.len()));
        if returns {
            done.text.push_str(" } ");
        } else {
            done.text.push_str(" } else { ");
            open += 1;
        }
    }
    if !returns {
        render(text, place.clone(), rest, done);
        let close = if is_statement { " }" } else { " })" };
        done.text.push_str(&close.repeat(open));
    }
    done.around.extend(here.iter().map(|(id, _)| (*id, begin..done.text.len())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::mutants;

    fn rewritten(text: &str) -> String {
        let found = mutants("a.rs", text).unwrap();
        let numbered: Vec<(u32, &Mutant)> = (1..).zip(&found).collect();
        rewrite(text, &numbered).text
    }

    #[test]
    fn what_lies_within_another_place_is_switched_there_too() {
        let text = rewritten("fn f(a: u32) -> u32 { let b = (a < 3) == (a + 1 > 2); g(b) }");
        assert!(syn::parse_file(&text).is_ok(), "{text}");
        assert!(text.contains("(a < 3)) != ((a + 1 > 2)"), "{text}");
        assert!(text.contains("a - 1") || text.contains("(a) - (1)"), "{text}");
    }

    #[test]
    fn each_mutant_is_told_where_its_own_code_stands() {
        let source = "fn f(a: u32) { g(a); if a < 3 { h(); } }";
        let found = mutants("a.rs", source).unwrap();
        let numbered: Vec<(u32, &Mutant)> = (1..).zip(&found).collect();
        let done = rewrite(source, &numbered);
        assert!(syn::parse_file(&done.text).is_ok(), "{}", done.text);
        assert_eq!(done.own.len(), found.len());
        for (id, range) in &done.own {
            let mutant = numbered.iter().find(|(other, _)| other == id).unwrap().1;
            let own = &done.text[range.clone()];
            match &mutant.instead {
                Instead::Text(text) => assert_eq!(own, text),
                Instead::Nothing => assert_eq!(own, ""),
                Instead::Return(value) => assert!(own.contains(value)),
            }
        }
    }
}
