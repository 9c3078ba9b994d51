"""size.py KERNELS LIBRARY: the library within 25 MB, each image in it within 5 MB. Images are counted in the fatbins, as the driver
reads them: a header, then entries of a header and a payload each."""
import glob
import os
import struct
import sys

IMAGE_LIMIT, LIBRARY_LIMIT = 5 << 20, 25 << 20
FATBIN_MAGIC, PTX = 0xBA55ED50, 1


def entries(data):
    """(kind, architecture, bytes) of each image of a fatbin."""
    magic, _, header_bytes, body_bytes = struct.unpack_from("<IHHQ", data)
    if magic != FATBIN_MAGIC:
        raise ValueError("not a fatbin")
    at, end = header_bytes, header_bytes + body_bytes
    while at < end:
        kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, at)
        (architecture,) = struct.unpack_from("<I", data, at + 28)
        yield kind, architecture, entry_header + payload
        at += entry_header + payload


def main():
    kernels, library = sys.argv[1:3]
    images = {}
    for path in glob.glob(os.path.join(kernels, "*.fatbin")):
        with open(path, "rb") as file:
            for kind, architecture, size in entries(file.read()):
                name = f"compute_{architecture} PTX" if kind == PTX else f"sm_{architecture}"
                images[name] = images.get(name, 0) + size
    library_bytes = os.path.getsize(library)
    for name in sorted(images):
        print(f"{name}: {images[name]} bytes")
    print(f"library: {library_bytes} bytes")
    return 1 if library_bytes > LIBRARY_LIMIT or any(size > IMAGE_LIMIT for size in images.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
