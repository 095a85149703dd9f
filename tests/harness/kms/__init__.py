"""AWS KMS (and what of STS and of an instance's metadata leads to it) as a server of the tests' own: keys have states, policies deny,
contexts bind, every request's signature is checked, and faults can be ordered.

    kms = Kms().start()
    arn = kms.create_key("acme")
    broker.config["kms.aws.endpoint"] = kms.url; environment = kms.root.environment()
    kms.disable(arn); kms.calls.count("Decrypt", arn)
    with kms.fault("throttle", operations=["Decrypt"], keys=[arn]): ...

moto does not enforce states and policies; where moto is right, `suites/test_kms_stand_in.py` shows that both agree.
It is a test tool: it keeps every data key it handed out, and is no provider of the product.
"""

from .stand_in import Kms

__all__ = ["Kms"]
