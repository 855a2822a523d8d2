"""The service on a board: the camera's command line, and the systemd unit around it."""

from __future__ import annotations

_SANDBOX = """
DynamicUser=yes
SupplementaryGroups=video
StateDirectory=edge-derm
WorkingDirectory=/var/lib/edge-derm
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
CapabilityBoundingSet=
""".strip()


def camera_arguments(bundle: str, port: int) -> list[str]:
    """The words after ``edge-derm``; the page is on loopback only. The source, which may hold a password, is not among them."""
    words = ["camera", "--bundle", bundle, "--view", "web", "--host", "127.0.0.1"]
    return [*words, "--port", str(port), "--repeat"]


def unit_text(name: str, port: int, *, trust: bool, memory_mb: float | None) -> str:
    """The unit; ``@ROOT@`` and ``@PYTHON@`` are filled in on the board."""
    words = camera_arguments("@ROOT@/current/bundle", port)
    command = " ".join(words)
    environment = "PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1" + (
        " EDGE_DERM_TRUST=@ROOT@/trust" if trust else ""
    )
    return f"""# Written by edge-derm deploy, release {name}; the next deployment writes it anew.
[Unit]
Description=edge-derm camera
After=network.target
StartLimitIntervalSec=120
StartLimitBurst=10

[Service]
Type=notify
ExecStartPre=+@PYTHON@ @ROOT@/agent.py settle @ROOT@
ExecStart=@ROOT@/current/venv/bin/python -c "from edge_derm.cli import main; main()" {command}
Environment={environment}
EnvironmentFile=@ROOT@/source.env
Restart=on-failure
RestartSec=2
TimeoutStartSec=300
WatchdogSec=30
MemoryMax={int(memory_mb or 700) + 100}M
{_SANDBOX}

[Install]
WantedBy=multi-user.target
"""
