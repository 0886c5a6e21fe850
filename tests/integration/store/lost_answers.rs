//! An object store of whose answers some are lost: what was done is told as done, and done once.

use std::io::Write as _;

use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::layout;
use buildgrid::store::{Store, StoreError, TagOutcome, TagPut};
use secrecy::ExposeSecret as _;

use super::gc::is_whole;
use super::{Root, objects};
use crate::support::image::{TestImage, image_name};
use crate::support::s3::S3;

fn server(root: &Root) -> &S3 {
    match root {
        Root::Objects(server) => server,
        Root::Directory(_) => panic!("it is in a directory"),
    }
}

fn put_of(name: &ImageName) -> String {
    format!("PUT /images/grid/{}", layout::tag_current_link(name).as_str())
}

#[tokio::test]
async fn a_tag_was_put_and_is_looked_at_again() {
    let (root, store) = objects();
    let server = server(&root);
    let name = image_name("acme/shop.storefront", "v1");
    let (image, rebuilt) = (TestImage::saying("hello"), TestImage::saying("rebuilt"));
    let replace = TagPut::Replace { expected: Some(image.digest()) };
    for (image, put) in [(&image, TagPut::IfAbsent), (&rebuilt, replace)] {
        image.put_untagged(&store, &name.repository).await;
        server.take_lines();
        server.lose_answer(&put_of(&name), || ());
        assert_eq!(store.put_tag(&name, image.digest(), put).await.unwrap(), TagOutcome::Put);
        assert!(server.are_faults_over() && is_whole(&store, &name, image).await);
        let lines = server.take_lines();
        let put_at = lines.iter().rposition(|line| line.starts_with("PUT ")).unwrap();
        let layer = layout::blob(Digest::of(&image.layer));
        let looks = lines[put_at..].iter().filter(|line| line.contains(layer.as_str()));
        assert!(looks.count() > 0, "{lines:#?}");
    }
}

#[tokio::test]
async fn a_tag_whose_content_has_gone_is_taken_back() {
    let (root, store) = objects();
    let name = image_name("acme/shop.storefront", "v1");
    let (image, rebuilt) = (TestImage::saying("hello"), TestImage::saying("rebuilt"));
    image.publish(&store, &name).await;
    let other = image_name("acme/shop.storefront", "v2");
    let replace = TagPut::Replace { expected: Some(image.digest()) };
    for (name, put, before) in [(&other, TagPut::IfAbsent, None), (&name, replace, Some(image.digest()))] {
        rebuilt.put_untagged(&store, &name.repository).await;
        let layer = root.path().join(layout::blob(Digest::of(&rebuilt.layer)).as_str());
        server(&root).lose_answer(&put_of(name), move || std::fs::remove_file(layer).unwrap());
        let error = store.put_tag(name, rebuilt.digest(), put).await.unwrap_err();
        assert!(matches!(error, StoreError::Incomplete { .. }), "{error}");
        assert_eq!(store.tag(name).await.unwrap(), before);
    }
}

#[tokio::test]
async fn one_login_is_made() {
    let (root, store) = objects();
    let put = "PUT /images/grid/buildgrid/credentials/";
    server(&root).refuse(put, 503, "SlowDown");
    server(&root).lose_answer(put, || ());
    let added = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    assert!(server(&root).are_faults_over());
    let user = added.credential.user.as_str();
    let verified = store.verify_credential(user, added.password.expose_secret()).await.unwrap();
    assert_eq!(verified.as_ref(), Some(&added.credential));
    assert_eq!(store.credentials().await.unwrap().usable, [added.credential]);
}

#[tokio::test]
async fn a_blob_in_parts_was_put() {
    let (root, store) = objects();
    let bytes = vec![7; 20 << 20];
    let digest = Digest::of(&bytes);
    let write = |store: &Store| {
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(&bytes).unwrap();
        writer.commit()
    };
    server(&root).lose_answer("?uploadId=", || ());
    assert_eq!(write(&store).unwrap(), (digest, 20 << 20));
    let path = root.path().join(layout::blob(digest).as_str());
    assert!(std::fs::read(&path).unwrap() == bytes && server(&root).are_faults_over());
    assert_eq!(server(&root).parts(), 0);

    // What stood there before is not taken for it.
    std::fs::write(&path, vec![8; 20 << 20]).unwrap();
    server(&root).refuse("?uploadId=", 404, "NoSuchUpload");
    let error = write(&store).unwrap_err();
    assert!(error.to_string().contains("NoSuchUpload"), "{error}");
    assert_eq!(server(&root).parts(), 0, "it was given up");
    write(&store).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
}
