//! Tests of who gets a place.

use super::*;

const HOSTILE: &str = "192.0.2.6";

/// With so many places; the source of one that waits is what it is known by.
fn places(connections: usize, room: usize, proxies: &[&str]) -> Places<&'static str> {
    let second = Duration::from_secs(1);
    let limits = Limits { service: "registry", connections, client_timeout: second, drain_timeout: second };
    let trusted_proxies = proxies.iter().map(|proxy| (*proxy).to_owned()).collect();
    Places::new(limits, Proxies::new(&crate::serving::ServerConfig { trusted_proxies }), room)
}

impl Places<&'static str> {
    fn come(&mut self, source: &'static str, times: usize) {
        for _ in 0..times {
            self.came(source.parse().unwrap(), source);
        }
    }

    /// Who gets a place, until nobody does.
    fn all_next(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.next()).map(|(_, client)| client).collect()
    }
}

#[test]
fn an_eighth_of_the_places_is_kept_for_others() {
    let mut places = places(16, 1024, &[]);
    places.come(HOSTILE, 500);
    assert_eq!(places.all_next().len(), 14);
    places.come("192.0.2.1", 1);
    assert_eq!(places.all_next(), ["192.0.2.1"]);
    // A client has 2^64 addresses of IPv6.
    let mut places = self::places(16, 1024, &[]);
    for (source, expected) in
        [("2001:db8::1", 14), ("2001:db8::2", 0), ("2001:db8:0:1::1", 2), ("::ffff:192.0.2.1", 0)]
    {
        places.come(source, 20);
        assert_eq!(places.all_next().len(), expected, "{source}");
    }
    assert_eq!(share(400), 350);
    assert_eq!([share(1), share(7), share(8)], [1, 7, 7]);
}

#[test]
fn a_free_place_goes_to_the_source_that_has_the_fewest_and_of_these_to_the_first() {
    let mut places = places(8, 1024, &[]);
    places.come(HOSTILE, 20);
    places.come("192.0.2.1", 1);
    assert_eq!(places.all_next().len(), 8);
    places.come("192.0.2.2", 1);
    places.come("192.0.2.3", 1);
    for expected in ["192.0.2.2", "192.0.2.3", HOSTILE] {
        places.left(&client_network(HOSTILE.parse().unwrap()));
        assert_eq!(places.all_next(), [expected]);
    }
    assert_eq!((places.taken, places.waiting), (8, 20 - 7 - 1));
}

#[test]
fn a_trusted_proxy_may_have_all() {
    for (proxies, expected) in [(&[][..], 14), (&["192.0.2.0/24"], 16)] {
        let mut places = places(16, 32, proxies);
        places.come(HOSTILE, 100);
        assert_eq!(places.all_next().len(), expected);
    }
}

#[test]
fn one_source_leaves_room_to_wait_and_none_hides_behind_another() {
    let mut places = places(8, 16, &[]);
    places.come(HOSTILE, 100);
    assert_eq!(places.waiting, 14, "the others were turned away");
    assert!(places.may_come());
    places.come("192.0.2.1", 1);
    places.come("192.0.2.2", 1);
    assert!(!places.may_come(), "the kernel's queue is left");
    assert_eq!(places.all_next().len(), 8);
    assert!(places.may_come());
    places.close();
    assert_eq!(places.all_next(), [""; 0]);
}

#[test]
fn the_idle_make_room_for_those_whom_it_helps() {
    let mut places = places(16, 1024, &[]);
    let idle = |order: &[&'static str]| {
        order.iter().map(|source| (client_network(source.parse().unwrap()), *source)).collect::<Vec<_>>()
    };
    places.come(HOSTILE, 14);
    places.all_next();
    let order = idle(&["192.0.2.1", HOSTILE, "192.0.2.2", HOSTILE, HOSTILE]);
    assert_eq!(places.in_the_way(order.clone()).count(), 0, "nobody waits");
    // One more of the source that has its share: only its own help.
    places.come(HOSTILE, 2);
    assert_eq!(places.in_the_way(order.clone()).collect::<Vec<_>>(), [HOSTILE; 2]);
    // All places are taken: the longest idle.
    places.come("192.0.2.1", 1);
    places.come("192.0.2.2", 2);
    places.all_next();
    assert_eq!(places.waiting, 3);
    assert_eq!(places.in_the_way(order).collect::<Vec<_>>(), ["192.0.2.1", HOSTILE, HOSTILE]);
    // What has left is forgotten.
    places.close();
    let sources = places.sources.iter().map(|(name, source)| (*name, source.taken)).collect::<Vec<_>>();
    for (name, taken) in sources {
        (0..taken).for_each(|_| places.left(&name));
    }
    assert!(places.sources.is_empty() && places.taken == 0);
}

#[test]
fn who_has_gone_while_it_waited_waits_no_more() {
    let mut places = places(8, 16, &[]);
    places.come(HOSTILE, 7);
    places.come("192.0.2.1", 1);
    assert_eq!(places.all_next().len(), 8);
    places.come(HOSTILE, 14);
    places.come("192.0.2.1", 2);
    assert!(!places.may_come());
    places.forget(|client| *client == HOSTILE);
    assert_eq!((places.may_come(), places.waiting), (true, 2));
    places.come(HOSTILE, 1);
    let idle = vec![(client_network(HOSTILE.parse().unwrap()), HOSTILE); 5];
    assert_eq!(places.in_the_way(idle).count(), 3, "one for each who is there");
    places.close();
    places.come("192.0.2.7", 3);
    places.forget(|client| *client == "192.0.2.7");
    assert!(!places.sources.contains_key(&client_network("192.0.2.7".parse().unwrap())));
}
