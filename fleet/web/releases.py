"""Publishing over HTTP."""

from starlette.responses import Response, StreamingResponse

from fleet.api.forms import Nothing
from fleet.api.releases import Listed, NewRelease, NewUpload, OfVersion, Published, Shown, Upload, Yank, Yanked
from fleet.releases.opening import Publishing
from fleet.steering import Steering
from fleet.web.endpoint import RAW, RAW_TYPE, Call, Endpoint

MAX_RELEASE_BYTES = 4 << 20  # a chat template, a text for perplexity and 64 golden prompts
NO_ROOM = {507: "the disk has no room for the file; the message has the numbers"}


def endpoints(publishing: Publishing, steering: Steering) -> list[Endpoint]:
    """What an admin publishes and takes back, and what everybody may see of it."""
    catalogue, uploads = publishing.catalogue, publishing.uploads

    async def receive(call: Call) -> Nothing:
        await uploads.receive(call.path["upload"], call.body)
        return Nothing()

    def yank(call: Call) -> Yanked:
        version: OfVersion = call.query
        reference = f"{call.path['name']}@{version.version}"
        why: Yank = call.body
        missing = catalogue.yank(reference, why.reason, call.caller.name)
        return Yanked(missing, steering.nodes_with(reference))

    def file(call: Call) -> Response:
        num_bytes, pieces = catalogue.file_of(f"{call.path['name']}@{call.query.version}")
        return StreamingResponse(pieces, media_type=RAW_TYPE, headers={"Content-Length": str(num_bytes)})

    return [
        Endpoint(
            method="POST", path="/v1/uploads", summary="Announce a file that shall be published", least="admin",
            work=lambda call: uploads.begin(call.body), body=NewUpload, answer=Upload, statuses=NO_ROOM,
        ),
        Endpoint(
            method="PUT", path="/v1/uploads/{upload}", summary="Send an announced file", least="admin",
            work=receive, body=RAW, answer=Nothing, statuses=NO_ROOM,
        ),
        Endpoint(
            method="GET", path="/v1/releases", summary="All releases", least="viewer",
            work=lambda _call: catalogue.all(), answer=list[Listed],
        ),
        Endpoint(
            method="POST", path="/v1/releases", summary="Publish a file that was sent", least="admin",
            work=lambda call: catalogue.publish(call.body, call.caller.name), body=NewRelease, answer=Published,
            max_bytes=MAX_RELEASE_BYTES, statuses=NO_ROOM,
        ),
        Endpoint(
            method="GET", path="/v1/releases/{name}", summary="All of a release, but its segments", least="viewer",
            work=lambda call: catalogue.show(f"{call.path['name']}@{call.query.version}"), query=OfVersion,
            answer=Shown,
        ),
        Endpoint(
            method="GET", path="/v1/releases/{name}/file", summary="The file of a release", least="viewer",
            work=file, query=OfVersion, answer=bytes, media_type=RAW_TYPE,
        ),
        Endpoint(
            method="POST", path="/v1/releases/{name}/yank", summary="Take a release back: it is wished no more",
            least="admin", work=yank, query=OfVersion, body=Yank, answer=Yanked,
        ),
    ]  # fmt: skip
