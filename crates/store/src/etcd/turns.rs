//! Many who ask the same at once share an answer, if the question was put after they came.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::{Result, Revision};

#[derive(Debug, Default)]
pub(super) struct Turns {
    tickets: AtomicU64,
    /// The last answer, and the last ticket that was drawn before its question was put.
    last: Mutex<(u64, Option<Result<Revision>>)>,
}

impl Turns {
    /// The answer to a question that was put after this call began.
    pub async fn ask<F>(&self, question: impl FnOnce() -> F) -> Result<Revision>
    where
        F: Future<Output = Result<Revision>>,
    {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if let (covered, Some(answer)) = &*last
            && *covered >= ticket
        {
            return answer.clone();
        }
        let covered = self.tickets.load(Ordering::SeqCst);
        let answer = question().await;
        *last = (covered, Some(answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn nobody_gets_an_answer_from_before_they_came() {
        let turns = Arc::new(Turns::default());
        let truth = Arc::new(AtomicU64::new(0));
        let questions = Arc::new(AtomicU64::new(0));
        let askers: Vec<_> = (0..200)
            .map(|_| {
                let (turns, truth, questions) = (turns.clone(), truth.clone(), questions.clone());
                tokio::spawn(async move {
                    for _ in 0..5 {
                        let before = truth.fetch_add(1, Ordering::SeqCst) + 1;
                        let answer = turns
                            .ask(|| async {
                                questions.fetch_add(1, Ordering::SeqCst);
                                let answer = truth.load(Ordering::SeqCst);
                                tokio::task::yield_now().await;
                                Ok(answer)
                            })
                            .await;
                        assert!(answer.unwrap() >= before);
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.unwrap();
        }
        assert!(questions.load(Ordering::SeqCst) < 100, "they share");
    }
}
