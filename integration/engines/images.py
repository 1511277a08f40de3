"""Images for the engines, made on the spot from Debian packages: no registry is asked.

An image is a list of layers and a configuration, in the archive format of `docker save`, which `docker load`, `podman load` and
`ctr image import` read alike. Images with a layer in common share it, byte for byte.
"""

import glob
import hashlib
import io
import json
import os
import subprocess
import tarfile

import stage

# Which packages' files make which layer. The libraries are those that the programs are linked to.
LIBRARIES = ('libc6', 'libcrypt1', 'libpcre2-8-0', 'libssl3', 'zlib1g', 'libapr1', 'libaprutil1', 'libuuid1', 'libexpat1',
             'libevent-2.1-7', 'libsasl2-2', 'libgcc-s1')
PROGRAMS = {'nginx': ('nginx',), 'apache': ('apache2-bin',), 'memcached': ('memcached',)}

PASSWD = 'root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/srv:/bin/sh\nsomeone:x:1000:1000::/home/someone:/bin/sh\n'
GROUP = 'root:x:0:\nwww-data:x:33:\nsomeone:x:1000:\nvideo:x:44:someone\n'
PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'


class Layer:
    """A tar archive in the making. Owner and time are always the same, so that a layer made twice is the same."""

    def __init__(self):
        self.file = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.file, mode='w', format=tarfile.GNU_FORMAT)
        self.paths = set()

    def directory(self, path, mode=0o755, owner=0):
        self._make(path, tarfile.DIRTYPE, mode, owner)
        return self

    def text(self, path, text, mode=0o644, owner=0):
        self._make(path, tarfile.REGTYPE, mode, owner, text.encode())
        return self

    def link(self, path, target):
        self._make(path, tarfile.SYMTYPE, 0o777, 0, target=target)
        return self

    def program(self, path, source, mode=0o755):
        with open(source, 'rb') as file:
            self._make(path, tarfile.REGTYPE, mode, 0, file.read())
        return self

    def packages(self, names, leave_out=('usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/lib/x86_64-linux-gnu/gconv')):
        """All files of packages of ./setup's download."""
        for name in names:
            (path,) = glob.glob(f'{stage.PACKAGES}/debs/{name}_*.deb')
            files = subprocess.run(['dpkg-deb', '--fsys-tarfile', path], stdout=subprocess.PIPE, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(files)) as package:
                for member in package:
                    member.name = member.name.removeprefix('./')
                    if not member.name.startswith(leave_out) and member.name not in ('', '.'):
                        self._add(member, package.extractfile(member) if member.isreg() else None)
        return self

    def bytes(self):
        self.tar.close()
        return self.file.getvalue()

    def _make(self, path, kind, mode, owner, content=b'', target=''):
        member = tarfile.TarInfo(path)
        member.type, member.mode, member.uid, member.gid, member.linkname = kind, mode, owner, owner, target
        member.size = len(content)
        self._add(member, io.BytesIO(content))

    def _add(self, member, content):
        """A path may be in a layer only once: packages have directories in common."""
        if member.name not in self.paths:
            self.paths.add(member.name)
            self.tar.addfile(member, content)


def busybox():
    """A small system: Debian's static busybox under all its names, two users, a file that belongs to one of them."""
    layer = Layer()
    for path in ('bin', 'dev', 'etc', 'home', 'proc', 'root', 'run', 'sbin', 'srv', 'sys', 'usr', 'usr/bin', 'usr/sbin', 'var', 'var/log'):
        layer.directory(path)
    layer.directory('tmp', 0o1777).directory('home/someone', 0o755, 1000).directory('data')
    layer.program('bin/busybox', '/bin/busybox')
    for applet in subprocess.run(['/bin/busybox', '--list'], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if applet != 'busybox':
            layer.link(f'bin/{applet}', 'busybox')
    layer.link('sbin/init', '../bin/busybox')
    layer.text('etc/passwd', PASSWD).text('etc/group', GROUP).text('etc/hosts', '').text('etc/resolv.conf', '')
    layer.text('data/text', 'not a program\n').text('data/owned', 'mine\n', 0o600, 1000)
    return layer.bytes()


def digest(content):
    return hashlib.sha256(content).hexdigest()


def archive(path, tag, layers, **config):
    """Writes an image. `config` holds the keys of the image's configuration: Cmd, Env, User, ..."""
    config = {'Env': [PATH], 'Cmd': ['/bin/sh'], **config}
    description = json.dumps({
        'architecture': 'amd64', 'os': 'linux', 'created': '1970-01-01T00:00:00Z', 'config': config,
        'rootfs': {'type': 'layers', 'diff_ids': [f'sha256:{digest(layer)}' for layer in layers]},
        'history': [{'created': '1970-01-01T00:00:00Z', 'created_by': 'images.py'} for _ in layers],
    }).encode()
    files = {f'{digest(description)}.json': description}
    files.update((f'{digest(layer)}/layer.tar', layer) for layer in layers)
    files['manifest.json'] = json.dumps([{
        'Config': f'{digest(description)}.json', 'RepoTags': [tag], 'Layers': [f'{digest(layer)}/layer.tar' for layer in layers],
    }]).encode()
    with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def box(directory):
    """The image most steps use: box.tar, and its only layer as rootfs.tar."""
    layer = busybox()
    os.makedirs(directory, exist_ok=True)
    with open(f'{directory}/rootfs.tar', 'wb') as file:
        file.write(layer)
    archive(f'{directory}/box.tar', 'docker.io/library/box:1', [layer])
