//! Apps of which only the latest event of a ref is built.

use super::World;
use crate::timeline::protocol::{AttemptId, AttemptState, BuildState, Claim, ClaimAnswer};

#[tokio::test]
async fn a_later_event_of_the_ref_replaces_the_one_that_waits() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.waits("latest-3 side").await;
    world.waits("latest-4").await;
    world.waits("latest-5 main").await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Claimed, "what runs is never ended by it");
    let reason = "a later event of refs/heads/main replaced it: build latest-5 (policy latest-only)";
    assert_eq!(world.build("latest-2 main").await.state, BuildState::Cancelled, "at once");
    assert_eq!(world.is_cancelled("latest-2 main").await, reason);
    world.waits("latest-4").await;
    world.waits("latest-3 side").await;
    world.ends("latest-1 main", first, AttemptState::Published).await;
    let third = world.goes("latest-3 side").await;
    assert_eq!(
        world.waits("latest-5 main").await,
        "build latest-3 of the same app is running (policy latest-only)"
    );
    world.ends("latest-3 side", third, AttemptState::Published).await;
    let fourth = world.goes("latest-4").await;
    world.ends("latest-4", fourth, AttemptState::Published).await;
    world.goes("latest-5 main").await;
}

#[tokio::test]
async fn a_later_event_replaces_what_is_queued_or_to_be_tried_again() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.ends("latest-1 main", first, AttemptState::Retrying).await;
    world.enqueue("latest-2 main").await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Cancelled);
    world.enqueue("latest-3 main").await;
    world.is_cancelled("latest-1 main").await;
    world.is_cancelled("latest-2 main").await;

    // One that ran when it was replaced, and fails by no fault of its own, is not tried again.
    let third = world.goes("latest-3 main").await;
    world.waits("latest-4 main").await;
    world.ends("latest-3 main", third, AttemptState::Retrying).await;
    let shown = world.build("latest-3 main").await;
    assert_eq!(shown.state, BuildState::Cancelled);
    assert!(shown.reason.unwrap().contains("build latest-4 "));
    world.is_cancelled("latest-3 main").await;

    // Nor is one whose worker died.
    world.goes("latest-4 main").await;
    world.waits("latest-5 main").await;
    world.pass(31);
    world.is_cancelled("latest-4 main").await;
    world.goes("latest-5 main").await;
}

#[tokio::test]
async fn what_was_withdrawn_replaces_nothing() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.cancel("latest-2 main").await;
    world.ends("latest-1 main", first, AttemptState::Retrying).await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Retrying);
    world.goes("latest-1 main").await;
}

#[tokio::test]
async fn a_rebuild_replaces_nothing_and_is_replaced() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.waits("again-3 main").await;
    world.waits("latest-2 main").await;
    world.ends("latest-1 main", first, AttemptState::Published).await;
    let second = world.goes("latest-2 main").await;
    world.waits("latest-4 main").await;
    world.is_cancelled("again-3 main").await;
    world.ends("latest-2 main", second, AttemptState::Published).await;
    world.goes("latest-4 main").await;
}

#[tokio::test]
async fn what_an_operator_puts_back_is_no_later_event() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.ends("latest-1 main", first, AttemptState::Failed).await;
    world.goes("latest-2 main").await;
    let again = |claim: &mut Claim| claim.requeue = Some("letter".to_owned());
    let (_, answer) = world.claim_with("latest-1 main", again).await;
    let ClaimAnswer::Cancelled { reason: Some(reason) } = answer else { panic!("{answer:?}") };
    assert!(reason.contains("build latest-2 "), "{reason}");
}

#[tokio::test]
async fn what_was_begun_before_it_was_told_of_replaces_nothing_that_came_since() {
    let mut world = World::new("").await;
    let attempt = AttemptId::generate();
    world.pass(60);
    world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    // Its worker took it while the service was away, and tells of it now.
    let late = |claim: &mut Claim| (claim.late, claim.attempt) = (true, attempt);
    let (_, answer) = world.claim_with("latest-0 main", late).await;
    assert!(matches!(answer, ClaimAnswer::Go { .. }), "{answer:?}");
    world.waits("latest-2 main").await;
}
