//! The API's document and the pages for people, as a client gets them.

use crate::support::serve;
use std::path::Path;

#[tokio::test]
async fn the_committed_document_is_the_one_that_is_served() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let committed = std::fs::read_to_string(committed).unwrap_or_default();
    let same = committed == espalier::http::openapi::text();
    assert!(same, "stale: run `cargo run -- openapi > openapi/openapi.json`");
    let server = serve().await;
    let served = server.get("/openapi.json").await;
    assert_eq!((served.status, served.header("content-type")), (200, Some("application/json")));
    assert!(served.text == committed);
}

#[test]
fn a_command_prints_the_document() {
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_espalier")).arg("openapi").output();
    let said = said.expect("the executable runs");
    assert!(said.status.success());
    assert!(said.stdout == espalier::http::openapi::text().into_bytes());
}

#[tokio::test]
async fn pages_are_checked_for_freshness_and_may_load_nothing_from_elsewhere() {
    let server = serve().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/script.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/docs/", "text/html; charset=utf-8"),
        ("/docs/swagger-initializer.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/openapi.json", "application/json"),
    ] {
        let got = server.get(path).await;
        assert_eq!((got.status, got.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(got.header("cache-control"), Some("no-cache"), "{path}");
        let policy = got.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("http"), "{policy}");
        assert!(!policy.contains("unsafe-inline") || path.starts_with("/docs/"), "{policy}");
        let head = server.send("HEAD", path, None, "").await;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("etag"), got.header("etag"));
        let length = got.text.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()), "{path}");
    }
    // Relative, so that a gateway may put it below a prefix; followed by every client.
    let docs = server.get("/docs").await;
    assert!(docs.status == 200 && docs.text.contains("swagger-ui"), "{docs:?}");
    let initializer = server.get("/docs/swagger-initializer.js").await.text;
    assert!(initializer.contains("../openapi.json") && initializer.contains("\"validatorUrl\": \"none\""));
    for missing in ["/page/nothing.js", "/docs/oauth2-redirect.html"] {
        let reply = server.get(missing).await;
        assert_eq!(reply.status, 404);
        reply.error();
    }
    assert_eq!(server.send("POST", "/", None, "").await.status, 405);
}

#[tokio::test]
async fn a_page_that_the_client_has_already_is_not_sent_again() {
    let server = serve().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let etag = server.get("/").await.header("etag").expect("a validator").to_owned();
    for (known, status) in [(etag.clone(), 304), (format!("\"x\", W/{etag}"), 304), ("\"x\"".to_owned(), 200)]
    {
        let request = client.get(&server.url).header("if-none-match", &known);
        assert_eq!(request.send().await.expect("an answer").status(), status, "{known}");
    }
}

#[tokio::test]
async fn the_version_is_the_packages() {
    let server = serve().await;
    assert_eq!(server.get("/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_version_of_the_image_names_its_commit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
    let text = std::fs::read_to_string(path).expect("it is there");
    // Two builds: of the dependencies, which must not depend on the commit, and of the server.
    let (dependencies, server) = text.split_once("COPY src src").expect("the second build");
    let (server, _) = server.split_once("\nFROM ").expect("the image");
    assert!(!dependencies.contains("\nARG REVISION"), "{dependencies}");
    assert!(server.contains("\nARG REVISION\n"), "{server}");
    assert!(server.contains("ESPALIER_GIT=\"${REVISION}\" cargo build "), "{server}");
}
