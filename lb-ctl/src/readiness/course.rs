//! What a row of attempts comes to, by the probe's thresholds (`worker.doProbe` of `pkg/kubelet/prober`).

/// Ready, or why not.
pub(super) type State = Result<(), String>;

/// The state of one container, as its probe tells by and by.
#[derive(Debug)]
pub(super) struct Course {
    state: Option<State>,
    /// Whether the last attempts succeeded, and how many in a row it were.
    row: (bool, u32),
    /// Successes in a row that make it ready, and failures in a row that make it unready.
    thresholds: (u32, u32),
}

impl Course {
    /// A container in this state; `None`: not ready, since nobody knows yet.
    pub(super) const fn new(state: Option<State>, thresholds: (u32, u32)) -> Self {
        Self { state, row: (false, 0), thresholds }
    }

    /// Notes the outcome of an attempt; gives the state if it is another, or is so for another reason.
    pub(super) fn note(&mut self, outcome: State) -> Option<State> {
        let success = outcome.is_ok();
        let before = if self.row.0 == success { self.row.1 } else { 0 };
        self.row = (success, before.saturating_add(1));
        let threshold = if success { self.thresholds.0 } else { self.thresholds.1 };
        // One that is not ready stays so by any failure: it only tells why.
        let is_settled = self.row.1 >= threshold || (!success && self.state != Some(Ok(())));
        if !is_settled || self.state.as_ref() == Some(&outcome) {
            return None;
        }
        self.state = Some(outcome.clone());
        Some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts in a row (`+` succeeds) lead to these states: `+` ready, `-` not, `.` as before.
    fn course(begin: Option<State>, thresholds: (u32, u32), attempts: &str) -> String {
        let mut course = Course::new(begin, thresholds);
        let mut step = |attempt: char| {
            let outcome = if attempt == '+' { Ok(()) } else { Err(attempt.to_string()) };
            course.note(outcome).map_or(".".to_owned(), |state| state.err().unwrap_or_else(|| "+".to_owned()))
        };
        attempts.chars().map(&mut step).collect()
    }

    #[test]
    fn thresholds_count_in_a_row() {
        assert_eq!(course(None, (1, 3), "++--+---+"), "+......-+");
        assert_eq!(course(None, (3, 1), "++-++++-"), "..-..+.-");
        assert_eq!(course(Some(Ok(())), (1, 3), "--+---"), ".....-", "ready until it has failed so often");
    }

    #[test]
    fn the_first_failure_and_every_other_reason_are_told() {
        assert_eq!(course(None, (1, 3), "aab+"), "a.b+");
        assert_eq!(course(Some(Ok(())), (1, 2), "abba"), ".b.a");
    }
}
