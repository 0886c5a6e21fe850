//! Who waits for nobody, and namespaces with a limit.

use super::World;
use crate::timeline::protocol::{AttemptState, ClaimAnswer};

#[tokio::test]
async fn without_a_policy_nobody_waits() {
    let mut world = World::new("").await;
    for name in ["web-1", "web-2", "web-3"] {
        world.goes(name).await;
    }
}

#[tokio::test]
async fn a_late_attempt_never_waits() {
    let mut world = World::new("max_running = 1").await;
    world.goes("serial-1").await;
    for name in ["serial-2", "latest-1 main", "web-1"] {
        let (_, answer) = world.claim_with(name, |claim| claim.late = true).await;
        assert!(matches!(answer, ClaimAnswer::Go { .. }), "{name}: {answer:?}");
    }
    // It counts all the same.
    assert!(world.waits("serial-3").await.contains(" of the same app is running"));
}

#[tokio::test]
async fn a_namespace_runs_no_more_than_its_limit_in_the_order_of_their_coming() {
    let mut world = World::new("max_running = 2").await;
    let first = world.goes("web-1").await;
    world.goes("api-1").await;
    assert_eq!(
        world.waits("web-2").await,
        "build api-1 and 1 other of namespace acme are running, and no more than 2 run at once (policy.max_running)"
    );
    world.waits("web-3").await;
    world.ends("web-1", first, AttemptState::Published).await;
    assert_eq!(
        world.waits("web-3").await,
        "build web-2 of namespace acme comes before it, and no more than 2 run at once (policy.max_running)"
    );
    world.goes("web-2").await;
    world.waits("web-3").await;

    let mut world = World::new("max_running = 5\nmax_running_in = { acme = 1 }").await;
    world.goes("web-1").await;
    assert!(world.waits("web-2").await.ends_with("no more than 1 run at once (policy.max_running_in)"));
}

#[tokio::test]
async fn who_waits_for_its_own_app_leaves_its_place_to_others() {
    let mut world = World::new("max_running = 2").await;
    world.goes("serial-1").await;
    for name in ["serial-2", "serial-3", "serial-4"] {
        world.waits(name).await;
    }
    let other = world.goes("other-1").await;
    // Two of another app, of which one could go: with it, the place is taken.
    world.waits("other-2").await;
    world.waits("other-3").await;
    world.ends("other-1", other, AttemptState::Published).await;
    assert!(world.waits("web-1").await.starts_with("build other-2 of namespace acme comes before it"));
    world.goes("other-2").await;
}
