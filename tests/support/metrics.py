"""The metrics of a hub."""

from tests.support.clients import Api


async def metrics(api: Api) -> dict[str, float]:
    """By name, with labels as they are written."""
    text = (await api.http.get(f"{api.url}/metrics")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
