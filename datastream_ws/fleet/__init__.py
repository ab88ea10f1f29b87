"""Many streams, one for each row of a source: :class:`~datastream_ws.Fleet`."""
