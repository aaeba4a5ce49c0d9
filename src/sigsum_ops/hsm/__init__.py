"""YubiHSM 2: object plan, ceremony, rehearsal device and signing oracle."""
