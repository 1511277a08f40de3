"""A private dockerd with the containerd that it starts, and the docker client as its user.

The network is the default bridge, which dockerd sets up by a hook of its own in each container's config.json; without iptables,
for there is no world outside to reach.
"""

import os

import images
import stage
from stage import same

BOX = 'box:1'
SLEEP = ('sleep', '1000')


class Docker(stage.Stage):
    name = 'docker'
    programs = ('dockerd', 'containerd', 'docker-init', '/usr/bin/docker', 'ip')

    @staticmethod
    def prepare(work):
        images.box(f'{work}/images')

    def __init__(self, *argv):
        super().__init__(*argv)
        self.socket = 'unix:///run/docker.sock'
        self.dockerd = self.daemon('docker')

    def daemon(self, name, *options):
        """A dockerd of that name, with all that it has in directories of its own."""
        return stage.Daemon(
            f'{self.dir}/{name}d.log', 'dockerd', '--host', f'unix:///run/{name}.sock', '--data-root', f'{self.dir}/{name}',
            '--exec-root', f'/run/{name}', '--pidfile', f'/run/{name}.pid', '--storage-driver', 'overlay2', '--iptables=false',
            '--ip6tables=false', '--ip-masq=false', '--exec-opt', 'native.cgroupdriver=cgroupfs', '--add-runtime',
            f'under-test={self.wrapper}', '--default-runtime', 'under-test', '--experimental', '--live-restore', *options)

    def begin(self):
        self.dockerd.start()
        self.daemons.append(self.dockerd)
        self.dockerd.ready(lambda: self.docker('version', status=None).status == 0)

    def docker(self, *argv, **how):
        return stage.run('/usr/bin/docker', '--host', self.socket, *argv, **how)

    def run(self, *argv, **how):
        return self.docker('run', '--rm', *argv, **how)

    def box(self, *command, **how):
        """`docker run --rm box COMMAND`, and what it wrote."""
        return self.run(BOX, *command, **how).out.strip()

    def start(self, name, *options, command=SLEEP):
        """A container in the background. Gives the pid of its first process."""
        self.docker('run', '-d', '--name', name, *options, BOX, *command)
        return int(self.inspect(name, '.State.Pid'))

    def inspect(self, name, field):
        return self.docker('inspect', '--format', '{{%s}}' % field, name).out.strip()

    def exec(self, *argv, **how):
        return self.docker('exec', *argv, **how)

    def remove(self, *names):
        self.docker('rm', '--force', '--volumes', *names)

    def tidy(self):
        names = self.docker('ps', '-aq', status=None).out.split()
        if names:
            self.docker('rm', '--force', '--volumes', *names, status=None)

    def remove_all(self):
        self.tidy()
        same(self.docker('ps', '-aq').out, '', 'containers')

    def may_stay(self, path):
        # A network namespace that dockerd keeps for itself, its data directory as a private mount, and the cgroup above those
        # of BuildKit, which runc leaves and corten does not.
        return path.endswith(('/netns/default', '/docker/buildkit')) or path in (f'{self.dir}/docker', f'{self.dir}/remapped')

    def states(self):
        return [f'{top}/{name}' for top in ('/run/docker/runtime-under-test/moby', '/run/docker/runtime-runc/moby') if os.path.isdir(top)
                for name in os.listdir(top)]
