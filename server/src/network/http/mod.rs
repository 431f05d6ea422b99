//! HTTP: `/` (a page for people), `/healthz`, `/metrics` and `/api/plugins`. Everything here only reads.

mod limit;
mod page;

use std::io;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use crate::admin::metrics;
use crate::admin::status::PluginControl;

type Plugins = State<Arc<dyn PluginControl>>;

/// No script, no foreign content, and nobody else's page around ours.
const POLICY: [(HeaderName, &str); 2] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// Answers the connections of `listener` until `stop` is done, then those requests that are being answered.
///
/// # Errors
/// The listener broke.
pub async fn serve_http(
    listener: TcpListener,
    plugins: Arc<dyn PluginControl>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(limit::Limited::new(listener), router(plugins)).with_graceful_shutdown(stop).await
}

fn router(plugins: Arc<dyn PluginControl>) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/api/plugins", get(api_plugins))
        .fallback(not_found)
        .with_state(plugins)
}

async fn status_page(State(plugins): Plugins) -> Response {
    let html = page::render(&plugins.list(), &plugins.events());
    (POLICY, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

/// Says that the server answers, not how its plugins are: a load balancer must not drop a server that serves without
/// one of them.
async fn health() -> Json<serde_json::Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(plugins): Plugins) -> Response {
    match metrics::encode(plugins.list()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written as text").into_response(),
    }
}

async fn api_plugins(State(plugins): Plugins) -> Response {
    (POLICY, Json(plugins.list())).into_response()
}

async fn not_found() -> Response {
    let known = "there is no such page; there are /, /healthz, /metrics and /api/plugins";
    (StatusCode::NOT_FOUND, POLICY, Json(json!({"error": known}))).into_response()
}

#[cfg(test)]
mod tests;
