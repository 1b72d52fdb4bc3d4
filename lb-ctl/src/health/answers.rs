//! What is answered, now: plain facts that the engine writes and that requests read.
//!
//! Status codes, headers and bodies are kube-proxy's (`pkg/proxy/healthcheck`), but that times are RFC 3339.

use super::check::Check;
use crate::figures::exposition;
use crate::objects::{IpFamily, Key};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a change may wait to be in the maps before this proxy is not healthy: as long as in kube-proxy.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// How many endpoints a load balancer can count on here.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Facts>);

/// How far the daemon has come: the answer of `/readyz`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    /// Every source of manifests has been read.
    pub(crate) synced: bool,
    /// The maps hold what follows from them.
    pub(crate) programmed: bool,
    /// Every named interface that exists has its hooks, and so has the cgroup that is to be served.
    pub(crate) attached: bool,
}

impl Ready {
    const fn is_ready(self) -> bool {
        self.synced && self.programmed && self.attached
    }
}

/// What answers are made of.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Services by the port that is asked, and the ready endpoints here of each family.
    pub(super) checks: BTreeMap<u16, (Key, BTreeMap<IpFamily, usize>)>,
    /// The node is to go.
    pub(super) is_leaving: bool,
    /// Since when a change waits to be in the maps.
    pub(super) waiting: Option<Instant>,
    /// When the maps held everything the last time.
    pub(super) updated: Option<Timestamp>,
    /// How far the daemon has come.
    pub(super) ready: Ready,
    /// By how much the engine's clock is ahead of the system's.
    pub(super) ahead: Duration,
}

impl Answers {
    /// The facts. A panic while somebody held them leaves them as whole as they were.
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what is asked about Services.
    pub(super) fn take<'c>(&self, checks: impl Iterator<Item = &'c Check>) {
        let checks = checks.map(|check| (check.port, (check.service.clone(), check.endpoints.clone())));
        self.facts().checks = checks.collect();
    }
}

impl Facts {
    /// Whether changes get into the maps.
    fn is_healthy(&self) -> bool {
        self.waiting.is_none_or(|since| (Instant::now() + self.ahead).saturating_duration_since(since) < PATIENCE)
    }

    /// The answer of the proxy itself: `/healthz` says whether load balancers should use this node, `/livez` whether the
    /// daemon does its work, `/readyz` whether it does all of it.
    pub(super) fn of_proxy(&self, path: &str) -> Response<Full<Bytes>> {
        let is_about_node = match path {
            "/healthz" => true,
            "/livez" => false,
            "/readyz" => return answer(status(self.ready.is_ready()), &json!(self.ready)),
            _ => return answer(StatusCode::NOT_FOUND, &json!({"paths": ["/healthz", "/livez", "/readyz"]})),
        };
        let is_good = self.is_healthy() && !(is_about_node && self.is_leaving);
        let now = Timestamp::now();
        let updated = if is_good { Some(now) } else { self.updated };
        let mut body = json!({"lastUpdated": updated, "currentTime": now});
        if is_about_node {
            body["nodeEligible"] = json!(!self.is_leaving);
        }
        answer(status(is_good), &body)
    }

    /// The answer for the Service whose health check port this is, asked at an address of this family, on any path.
    pub(super) fn of_service(&self, port: u16, family: IpFamily) -> Response<Full<Bytes>> {
        let Some((service, endpoints)) = self.checks.get(&port) else {
            return answer(StatusCode::NOT_FOUND, &json!({}));
        };
        let count = endpoints.get(&family).copied().unwrap_or_default();
        let is_healthy = self.is_healthy();
        let body = json!({
            "service": {"namespace": service.namespace, "name": service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": is_healthy,
        });
        let mut answer = answer(status(is_healthy && count > 0), &body);
        answer.headers_mut().insert(WEIGHT, HeaderValue::from(count));
        answer
    }
}

/// The answer of `/metrics`.
pub(super) fn metrics(text: Result<Vec<u8>, String>) -> Response<Full<Bytes>> {
    match text {
        Ok(text) => {
            let mut answer = Response::new(Full::from(text));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
            answer
        }
        Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"message": why})),
    }
}

fn status(is_good: bool) -> StatusCode {
    if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(facts: &Facts) -> [u16; 2] {
        ["/healthz", "/livez"].map(|path| facts.of_proxy(path).status().as_u16())
    }

    fn facts() -> Facts {
        let endpoints = BTreeMap::from([(IpFamily::IPv4, 2), (IpFamily::IPv6, 0)]);
        Facts { checks: BTreeMap::from([(31000, (Key::new("d", "s"), endpoints))]), ..Facts::default() }
    }

    #[test]
    fn the_proxy_is_healthy_unless_a_change_waits_too_long() {
        let mut facts = facts();
        assert_eq!(codes(&facts), [200, 200], "nothing was synced yet");
        facts.waiting = Some(Instant::now());
        facts.ahead = PATIENCE.mul_f32(0.9);
        assert_eq!(codes(&facts), [200, 200]);
        facts.ahead = PATIENCE.mul_f32(1.1);
        assert_eq!(codes(&facts), [503, 503]);
        assert_eq!(facts.of_service(31000, IpFamily::IPv4).status(), 503);
        facts.waiting = None;
        assert_eq!(codes(&facts), [200, 200]);
    }

    #[test]
    fn a_node_that_is_to_go_is_alive_and_not_eligible() {
        let facts = Facts { is_leaving: true, ..Facts::default() };
        assert_eq!(codes(&facts), [503, 200]);
        assert_eq!(facts.of_proxy("/metrics").status(), 404);
    }

    #[test]
    fn a_daemon_is_ready_when_all_of_it_is() {
        let all = Ready { synced: true, programmed: true, attached: true };
        let of = |ready| Facts { ready, ..Facts::default() }.of_proxy("/readyz").status().as_u16();
        assert_eq!(of(all), 200);
        for less in
            [Ready { synced: false, ..all }, Ready { programmed: false, ..all }, Ready { attached: false, ..all }]
        {
            assert_eq!(of(less), 503, "{less:?}");
        }
    }

    #[test]
    fn a_service_is_healthy_where_it_has_endpoints() {
        let facts = facts();
        let weight = |family| {
            let answer = facts.of_service(31000, family);
            (answer.status().as_u16(), answer.headers()[WEIGHT].to_str().unwrap().to_owned())
        };
        assert_eq!(weight(IpFamily::IPv4), (200, "2".to_owned()));
        assert_eq!(weight(IpFamily::IPv6), (503, "0".to_owned()));
        assert_eq!(facts.of_service(31001, IpFamily::IPv4).status(), 404);
    }
}
