"""AWS's errors by name, each with the HTTP status AWS documents for it.

https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html and the "Errors" section of each operation.
"""

STATUS = {
    "AccessDeniedException": 400, "AlreadyExistsException": 400, "DependencyTimeoutException": 503, "DisabledException": 400,
    "ExpiredTokenException": 400, "IncompleteSignatureException": 400, "IncorrectKeyException": 400,
    "InvalidAliasNameException": 400, "InvalidArnException": 400, "InvalidCiphertextException": 400,
    "InvalidKeyUsageException": 400, "InvalidSignatureException": 400, "KMSInternalException": 500,
    "KMSInvalidStateException": 400, "KeyUnavailableException": 500, "LimitExceededException": 400,
    "MalformedPolicyDocumentException": 400, "MissingAuthenticationTokenException": 400, "NotFoundException": 400,
    "SerializationException": 400, "ServiceUnavailableException": 503, "ThrottlingException": 400,
    "UnknownOperationException": 400, "UnrecognizedClientException": 400, "UnsupportedOperationException": 400,
    "ValidationException": 400,
}


class AwsError(Exception):
    """An answer that is an error. `status` is AWS's for the name, unless another is ordered."""

    def __init__(self, name, message="", status=None):
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.status = name, message, status or STATUS[name]
