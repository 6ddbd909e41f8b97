//! Splitting off a prompt that is only implied: the common beginning of chosen and rejected.
//!
//! Two rules. HH-RLHF transcripts (`\n\nHuman: ... \n\nAssistant: ...`) are cut after the last `\n\nAssistant:` that
//! both share, so that the completion is the whole last answer even when both answers begin alike. Other text is cut
//! as TRL's `extract_prompt` does: where the two first differ, one space earlier when a space stands there, and
//! before the last shared character when they do not differ in their common length (so that no completion is empty).
//! Tested here by properties and in `tests/shapes.rs`.

use unbraid_text::Message;

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Where the completion begins, in bytes from the start of both texts; always a character boundary of both.
///
/// ```
/// let chosen = "\n\nHuman: Hi\n\nAssistant: Hello!";
/// let rejected = "\n\nHuman: Hi\n\nAssistant: Hey.";
/// let cut = unbraid_preference::split_prompt(chosen, rejected);
/// assert_eq!(&chosen[cut..], " Hello!");
/// ```
pub fn split_prompt(chosen: &str, rejected: &str) -> usize {
    let shared: usize = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(c, r)| c == r)
        .map(|(c, _)| c.len_utf8())
        .sum();
    let common = &chosen[..shared];
    if common.starts_with(HUMAN)
        && let Some(at) = common.rfind(ASSISTANT)
    {
        return at + ASSISTANT.len();
    }
    let differ_inside = shared < chosen.len() && shared < rejected.len();
    match common.chars().next_back() {
        None => 0,
        Some(' ') if differ_inside => shared - 1,
        Some(_) if differ_inside => shared,
        Some(last) => shared - last.len_utf8(),
    }
}

/// How many turns the prompt has: those before the first that differs, and never the whole of the shorter one.
pub(crate) fn split_messages(chosen: &[Message], rejected: &[Message]) -> usize {
    let shared = chosen
        .iter()
        .zip(rejected)
        .take_while(|(c, r)| c == r)
        .count();
    shared.min(chosen.len().min(rejected.len()).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_transcript_is_cut_after_the_last_shared_assistant() {
        let chosen = "\n\nHuman: a\n\nAssistant: same start, then x";
        let rejected = "\n\nHuman: a\n\nAssistant: same start, then y";
        assert_eq!(
            &chosen[split_prompt(chosen, rejected)..],
            " same start, then x"
        );
    }

    #[test]
    fn a_transcript_that_parts_at_a_human_turn_keeps_the_answer_before_it() {
        let chosen = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d";
        let rejected = "\n\nHuman: a\n\nAssistant: b\n\nHuman: e\n\nAssistant: f";
        assert_eq!(
            &chosen[split_prompt(chosen, rejected)..],
            " b\n\nHuman: c\n\nAssistant: d"
        );
    }

    #[test]
    fn other_text_gives_a_space_before_the_difference_to_the_completion() {
        assert_eq!(
            split_prompt("The sky is blue", "The sky is green"),
            "The sky is".len()
        );
        assert_eq!(split_prompt("1+1=2", "1+1=3"), "1+1=".len());
    }

    #[test]
    fn equal_texts_keep_their_last_character_as_completion() {
        assert_eq!(split_prompt("same", "same"), 3);
        assert_eq!(split_prompt("naïve é", "naïve é more"), "naïve ".len());
        assert_eq!(split_prompt("", "x"), 0);
    }

    proptest! {
        #[test]
        fn the_cut_is_a_shared_prefix(prefix in ".{0,12}", chosen in ".{0,12}", rejected in ".{0,12}") {
            let (chosen, rejected) = (format!("{prefix}{chosen}"), format!("{prefix}{rejected}"));
            let cut = split_prompt(&chosen, &rejected);
            prop_assert!(chosen.is_char_boundary(cut) && rejected.is_char_boundary(cut));
            prop_assert_eq!(&chosen[..cut], &rejected[..cut]);
            prop_assert_eq!(cut, split_prompt(&rejected, &chosen));
            // At most one shared character is given to the completions.
            let shared = chosen.chars().zip(rejected.chars()).take_while(|(c, r)| c == r).count();
            prop_assert!(chosen[..cut].chars().count() + 1 >= shared);
        }

        #[test]
        fn transcripts_are_cut_after_assistant(
            turns in prop::collection::vec("[a-z ]{0,8}", 1..4), chosen in "[a-z ]{0,8}", rejected in "[a-z ]{0,8}",
        ) {
            let prompt: String = turns.iter().map(|turn| format!("{HUMAN}{turn}{ASSISTANT}")).collect();
            let cut = split_prompt(&format!("{prompt}{chosen}"), &format!("{prompt}{rejected}"));
            prop_assert_eq!(cut, prompt.len());
        }
    }
}
