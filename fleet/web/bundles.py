"""Bundles of releases over HTTP."""

from datetime import timedelta

from starlette.responses import Response, StreamingResponse

from fleet.api.releases import Adopted, BroughtBundle, NewBundle
from fleet.releases.bundle import Bundle, num_bytes_of, parts_of, write_bundle
from fleet.releases.opening import Publishing
from fleet.web.endpoint import Call, Endpoint

MEDIA_TYPE = "application/x-tar"


def endpoints(publishing: Publishing) -> list[Endpoint]:
    """One file out, one file in."""
    catalogue, repository = publishing.catalogue, publishing.repository

    def export(call: Call) -> Response:
        wanted: NewBundle = call.body
        releases = [catalogue.manifest_of(reference) for reference in dict.fromkeys(wanted.releases)]
        timestamp = repository.timestamp_for(timedelta(days=wanted.days))
        parts = parts_of(repository.files.releases, releases, timestamp)
        headers = {"Content-Length": str(num_bytes_of(parts))}
        return StreamingResponse(write_bundle(parts), media_type=MEDIA_TYPE, headers=headers)

    def bring(call: Call) -> Adopted:
        given: BroughtBundle = call.body
        root = given.root.encode() if given.root else repository.files.root().to_bytes()
        with Bundle(publishing.uploads.find(given.sha256)) as bundle:
            chosen = bundle.releases(root)
            new = [one.release.reference for one in chosen if catalogue.adopt(one, bundle, call.caller.name)]
        publishing.uploads.drop(given.sha256)
        known = [one.release.reference for one in chosen if one.release.reference not in new]
        return Adopted(new=new, known=known, missing=repository.missing("targets") or 0)

    return [
        Endpoint(
            method="POST", path="/v1/bundles", summary="Releases in one file, for where there is no network",
            least="admin", work=export, body=NewBundle, answer=bytes, media_type=MEDIA_TYPE,
        ),
        Endpoint(
            method="POST", path="/v1/bundles/import", summary="Approve the releases of a bundle that was sent",
            least="admin", work=bring, body=BroughtBundle, answer=Adopted, max_bytes=128 * 1024,
        ),
    ]  # fmt: skip
