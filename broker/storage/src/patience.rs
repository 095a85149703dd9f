//! Many tasks at once, some of which may hang: the others are not held by them.
//!
//! Invariants
//! - At most `at_once` tasks are under way that may still be expected to end.
//! - The wait is over when all have ended, or when none has for `patience`; those that have not go on by themselves.

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;

/// Runs all tasks and hands over what they return, until all have ended or none has for `patience`.
///
/// A round of tasks that hang takes up one `patience`, however many there are of them; the tasks behind them are begun then.
pub async fn until_quiet<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
    at_once: usize,
    patience: Duration,
    mut ended: impl FnMut(T),
) {
    let mut waiting = tasks.into_iter().collect::<Vec<_>>().into_iter();
    let mut running = JoinSet::new();
    // Those that may still be expected to end.
    let mut young = HashSet::new();
    loop {
        while young.len() < at_once.max(1)
            && let Some(task) = waiting.next()
        {
            young.insert(running.spawn(task).id());
        }
        if young.is_empty() {
            break;
        }
        match tokio::time::timeout(patience, running.join_next_with_id()).await {
            Ok(Some(Ok((id, outcome)))) => {
                young.remove(&id);
                ended(outcome);
            }
            // A task that panicked has ended, without a word.
            Ok(Some(Err(error))) => drop(young.remove(&error.id())),
            Ok(None) | Err(_) => young.clear(),
        }
    }
    running.detach_all();
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::Pin;
    use std::time::Instant;

    use tokio::time::sleep;

    use super::*;

    /// Long against the scheduling of a loaded machine.
    const PATIENCE: Duration = Duration::from_millis(400);

    type Task = Pin<Box<dyn Future<Output = usize> + Send>>;

    async fn run(tasks: Vec<Task>, at_once: usize) -> (Vec<usize>, Duration) {
        let (mut all, begun) = (Vec::new(), Instant::now());
        until_quiet(tasks, at_once, PATIENCE, |one| all.push(one)).await;
        all.sort_unstable();
        (all, begun.elapsed())
    }

    #[tokio::test]
    async fn hanging_task_costs_one_patience_and_nobody_elses_end() {
        let mut tasks: Vec<Task> = (0..100_usize).map(|n| Box::pin(ready(n)) as Task).collect();
        tasks.insert(3, Box::pin(pending()));
        let (all, took) = run(tasks, 4).await;
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(took >= PATIENCE && took < 2 * PATIENCE, "{took:?}");
    }

    #[tokio::test]
    async fn tasks_behind_more_hanging_ones_than_run_at_once_are_done_too() {
        let mut tasks: Vec<Task> = (0..8).map(|_| Box::pin(pending()) as Task).collect();
        tasks.extend((0..100_usize).map(|n| Box::pin(ready(n)) as Task));
        let (all, took) = run(tasks, 4).await;
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert!(took >= 2 * PATIENCE && took < 3 * PATIENCE, "a round of four, twice: {took:?}");
    }

    #[tokio::test]
    async fn slow_crowd_is_waited_for_as_long_as_somebody_ends() {
        let tasks = (0..20_usize).map(|n| {
            Box::pin(async move {
                sleep(PATIENCE / 4).await;
                n
            }) as Task
        });
        let (all, took) = run(tasks.collect(), 2).await;
        assert_eq!(all.len(), 20);
        assert!(took >= 2 * PATIENCE, "{took:?}");
    }

    #[tokio::test]
    async fn all_done_is_done_at_once() {
        let (all, took) = run((0..10_usize).map(|n| Box::pin(ready(n)) as Task).collect(), 3).await;
        assert!(all.len() == 10 && took < PATIENCE, "{took:?}");
        assert_eq!(run(Vec::new(), 3).await.0.len(), 0);
    }

    #[tokio::test]
    async fn hanging_tasks_go_on_by_themselves() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let late: Task = Box::pin(async move {
            sleep(3 * PATIENCE).await;
            let _ = tell.send(());
            0
        });
        let (all, _) = run(vec![late], 3).await;
        assert!(all.is_empty());
        told.await.unwrap();
    }
}
